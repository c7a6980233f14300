// What AC(lambda) does beside learning: acts, steps the environment, counts.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../../core/api/native.h"
#include "../_threefry.h"

// Arrays over runs, [R, ...], with one environment each: parts of RunState, settings, and Ends.
// _native.py has the same order.
struct Runs {
  Key* key;
  int32_t *step, *failure, *finished, *env_steps;
  float* returns;
  int32_t* lengths;
  float *observation, *reward, *discount;
  uint8_t* first;
  uint8_t* ended;  // [R, steps], and so the two below
  float* episode_return;
  int32_t* length;
  const float *ac, *network, *env, *tuner;  // settings: of AC(lambda) gamma, lambda, psi, most
};

struct Sizes {
  int64_t runs, steps, features, observation, env_settings, network_settings, tuner_settings;
  int64_t episodes, env_steps;     // a run ends with so many
  int64_t bad_delta, bad_params;   // what failures of an update are called
  int64_t rule;                    // scalars of the tuner
  int64_t threads;
};

struct Space {  // of entries
  std::vector<int32_t> index;
  std::vector<float> value;
  explicit Space(int64_t size) : index(size + 64), value(size + 64) {}
  Entries entries() { return {0, index.data(), value.data()}; }
};

template <int A>
struct Policy {
  float p[A], log_p[A];

  explicit Policy(const float* logits) {
    float most = logits[0], total = 0;
    for (int a = 1; a < A; a++) most = std::max(most, logits[a]);
    for (int a = 0; a < A; a++) total += p[a] = std::exp(logits[a] - most);
    const float log_total = most + std::log(total);
    for (int a = 0; a < A; a++) p[a] /= total, log_p[a] = logits[a] - log_total;
  }

  // The action of the least -log(u_a) / p_a, which is the greatest log p_a - log(-log(u_a)): the
  // choice of jax.random.categorical, of the same u.
  int choose(const float* race) const {
    int best = 0;
    for (int a = 1; a < A; a++) best = race[a] * p[best] < race[best] * p[a] ? a : best;
    return best;
  }

  // Gradients of U and psi H by value and logits, [1 + A].
  void gradients(int action, float psi, float* grad, float* bonus) const {
    float entropy = 0;
    for (int a = 0; a < A; a++) entropy -= p[a] * log_p[a];
    grad[0] = 1, bonus[0] = 0;
    for (int a = 0; a < A; a++) {
      grad[1 + a] = 0.5f * ((a == action) - p[a]);
      bonus[1 + a] = psi == 0 ? 0 : -psi * p[a] * (log_p[a] + entropy);
    }
  }
};

// One run of them, as it goes on.
template <class Env, class Features, int A>
struct Actor {
  static constexpr int AHEAD = 64;  // steps whose random numbers are drawn together
  const Runs& runs;
  const Sizes& sizes;
  const int r;
  Env env;
  float race[AHEAD][A];
  Space seen_space, space[2];
  Entries seen, now, next;  // the observation; features of the last timestep and of the next

  Actor(const Runs& runs, const Sizes& sizes, void* const* leaves, int r)
      : runs(runs),
        sizes(sizes),
        r(r),
        env(leaves, r, runs.env + r * sizes.env_settings),
        seen_space(sizes.observation),
        space{Space(sizes.features), Space(sizes.features)},
        seen(seen_space.entries()),
        now(space[0].entries()),
        next(space[1].entries()) {
    const float* observation = runs.observation + r * sizes.observation;
    for (int i = 0; i < sizes.observation; i++) {
      if (observation[i] == 0) continue;
      seen.index[seen.n] = i;
      seen.value[seen.n++] = observation[i];
    }
    features(now);
  }

  void features(Entries& out) {
    Features::features(runs.network + r * sizes.network_settings, seen, out);
  }

  // Whether the run goes on: see core.runs.iteration.going.
  bool active() const {
    return runs.failure[r] < 0 && runs.finished[r] < sizes.episodes &&
           runs.env_steps[r] < sizes.env_steps;
  }

  // Whether traces go on from the last timestep: see _online.continues.
  bool continues() const { return !runs.first[r] && runs.discount[r] > 0; }

  // -log(u) for each action of the next steps, with the keys that core.runs.iteration.act and
  // Functions.act draw with.
  void draw() {
    for (int t = 0; t < AHEAD; t++) {
      const uint32_t step = runs.step[r] + t;
      const Key key = threefry(threefry(threefry(runs.key[r], step), 1), 0);
      for (int a = 0; a < A; a++) race[t][a] = uniform(random_bits(key, a));
    }
    for (int t = 0; t < AHEAD; t++)
      for (int a = 0; a < A; a++) race[t][a] = -std::log(std::max(race[t][a], FLT_MIN));
  }

  int act(int t, const Policy<A>& policy) {
    if (t % AHEAD == 0) draw();
    return policy.choose(race[t % AHEAD]);
  }

  // Makes step t, and counts it: see core.api.online.count.
  Transition step(int t, int action) {
    const Transition made = env.step(action, seen);
    runs.reward[r] = made.reward;
    runs.discount[r] = made.discount;
    runs.first[r] = made.first;
    runs.env_steps[r]++;
    if (made.first) {
      const int64_t at = r * sizes.steps + t;
      runs.ended[at] = true;
      runs.episode_return[at] = runs.returns[r];
      runs.length[at] = runs.lengths[r];
      runs.returns[r] = 0;
      runs.lengths[r] = 0;
      runs.finished[r]++;
    } else {
      runs.returns[r] += made.reward;
      runs.lengths[r]++;
    }
    features(next);
    return made;
  }

  // Says whether an update is finite; the run ends if not.
  bool finite(float delta, float change) {
    if (std::isfinite(delta) && std::isfinite(change)) return true;
    runs.failure[r] = std::isfinite(delta) ? sizes.bad_params : sizes.bad_delta;
    return false;
  }

  void advance() {
    if (runs.failure[r] < 0) runs.step[r]++;
    std::swap(now, next);
  }

  void finish() {
    float* observation = runs.observation + r * sizes.observation;
    std::fill(observation, observation + sizes.observation, 0.0f);
    for (int i = 0; i < seen.n; i++) observation[seen.index[i]] = seen.value[i];
  }
};
