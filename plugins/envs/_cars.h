// Both mountain cars: the steps of mountain_car.py and of drifting_mountain_car.py, which draw the
// same numbers.
//
// An environment is made of the leaves of its state, arrays [R, 1, ...] with keys as two words, of
// the number of a run and of its settings; step() changes them, and writes the observation.
#pragma once
#include <algorithm>
#include <cmath>

#include "../../core/api/native.h"
#include "../_threefry.h"
#include "../networks/_features.h"

struct MountainCar {
  float &position, &velocity;
  int32_t& steps;
  uint8_t& done;
  Key& key;
  const bool cut_is_terminal;
  const int max_steps;

  MountainCar(void* const* leaves, int r, const float* settings)
      : position(static_cast<float*>(leaves[0])[r]),
        velocity(static_cast<float*>(leaves[1])[r]),
        steps(static_cast<int32_t*>(leaves[2])[r]),
        done(static_cast<uint8_t*>(leaves[3])[r]),
        key(static_cast<Key*>(leaves[4])[r]),
        cut_is_terminal(settings[0] > 0),
        max_steps(static_cast<int>(settings[1])) {}

  Transition drive(int action) {
    if (done) {
      const Key start = threefry(key, 1);
      key = threefry(key, 0);
      position = std::max(uniform(random_bits(start, 0)) * (-0.4f - -0.6f) + -0.6f, -0.6f);
      velocity = 0;
      steps = 0;
      done = false;
      return {0, 1, true};
    }
    velocity += 0.001f * static_cast<float>(action - 1) - 0.0025f * std::cos(3.0f * position);
    velocity = std::min(std::max(velocity, -0.07f), 0.07f);
    position = std::min(std::max(position + velocity, -1.2f), 0.6f);
    if (position == -1.2f && velocity < 0) velocity = 0;
    steps++;
    const bool goal = position >= 0.5f, cut = steps >= max_steps;
    done = goal || cut;
    return {-1, goal || (cut && cut_is_terminal) ? 0.0f : 1.0f, false};
  }

  Transition step(int action, Entries& out) {
    const Transition made = drive(action);
    out.n = 2;
    out.index[0] = 0, out.value[0] = position;
    out.index[1] = 1, out.value[1] = velocity;
    return made;
  }
};

struct DriftingMountainCar {
  static constexpr int SIZE = 1600, FAR = 1 << 30;
  MountainCar car;
  float* signs;
  int32_t& until;
  uint8_t& flips;
  Key& key;
  const float drift;
  const int noise;

  DriftingMountainCar(void* const* leaves, int r, const float* settings)
      : car(leaves, r, settings),
        signs(static_cast<float*>(leaves[5]) + static_cast<int64_t>(r) * SIZE),
        until(static_cast<int32_t*>(leaves[6])[r]),
        flips(static_cast<uint8_t*>(leaves[7])[r]),
        key(static_cast<Key*>(leaves[8])[r]),
        drift(settings[2]),
        noise(static_cast<int>(settings[3])) {}

  void flip() {
    while (until < SIZE) {
      const Key gap = threefry(key, 0);
      key = threefry(key, 1);
      if (flips) signs[until] = -signs[until];
      const float u = uniform(random_bits(gap, 0));
      float trials = FAR;
      if (drift > 0) trials = std::ceil(std::log1p(-u) / std::log1p(-drift));
      trials = std::min(std::max(trials, 1.0f), static_cast<float>(FAR));
      until += static_cast<int32_t>(trials);
      flips = trials < FAR;
    }
    until -= SIZE;
  }

  Transition step(int action, Entries& out) {
    static const float bounds[4] = {-1.2f, -0.07f, 0.6f, 0.07f};
    const Transition made = car.drive(action);
    flip();
    int32_t places[2] = {0, 1};
    float values[2] = {car.position, car.velocity};
    Tiles<2, 16, 10>::features(bounds, {2, places, values}, out);
    for (int i = 0; i < out.n; i++) out.value[i] = signs[out.index[i]];
    const Key drawn = key;
    key = {random_bits(drawn, 0), random_bits(drawn, 1)};
    uint32_t word = 0;
    int n = out.n;
    int32_t* const index = out.index;
    for (int j = 0; j < noise; j++) {
      if (j % 32 == 0) word = random_bits(drawn, 2 + j / 32);
      index[n] = SIZE + j;
      n += word >> (j % 32) & 1;  // a branch would be mispredicted half of the time
    }
    std::fill(out.value + out.n, out.value + n, 1.0f);
    out.n = n;
    return made;
  }
};
