// AC(lambda) with a step size for each parameter: arrays of the features that are in the trace.
//
// An update moves every weight whose trace is not over, by a step size of its own that moves too.
// The features of the last steps lie packed, side by side, so that a pass over them is one over
// short arrays; the others lie where nothing reads them. A feature is packed as it becomes active,
// and put back when its trace is below LEAST of what it was, or the episode ends: a trace is then 0.
#pragma once
#include <cstring>
#include <vector>

#include "../tuners/_rules_each.h"
#include "_run.h"

template <class Env, class Features, class Tuner, int A>
struct Each {
  static constexpr int ROWS = (1 + A + 3) / 4 * 4;  // numbers a feature, in fours; the last are 0
  static constexpr int OLD = 16;                    // steps between looks for what is over
  static constexpr float LEAST = 1e-8f;

  // [R, scalars], [R, 1, F], [R, 1, A, F], z and rows of the tuner [R, (A + 1) F], of policy and
  // then value; from then on the same again, as they become.
  struct Arrays {
    float* const* table;
    explicit Arrays(float* const* table) : table(table) {}
    const float* old(int i) const { return table[1 + i]; }
    float* changed(int i) const { return table[1 + 3 + Tuner::ROWS + i]; }
  };

  Actor<Env, Features, A> actor;
  const Arrays& arrays;
  const int64_t size;
  const float* ac;
  Tuner tuner;
  // Row by row: w, z and those of the tuner. Of all features, [F, 1 + A], and of those packed.
  std::vector<std::vector<float>> home, rows;
  std::vector<float> e;  // exp(beta) of those packed
  std::vector<int32_t> slot, feature, last, put_at;  // last: step that a slot was active in
  int packed = 0, updates = 0, window;

  Each(const Runs& runs, const Sizes& sizes, void* const* leaves, const Arrays& arrays, int r)
      : actor(runs, sizes, leaves, r),
        arrays(arrays),
        size(sizes.features),
        ac(runs.ac + 4 * r),
        tuner(arrays.table[0] + r * sizes.rule, runs.tuner + r * sizes.tuner_settings),
        home(2 + Tuner::ROWS, std::vector<float>(size * ROWS)),
        rows(2 + Tuner::ROWS, std::vector<float>(size * ROWS + 16)),
        e(size * ROWS + 16),
        slot(size, -1),
        feature(size),
        last(size),
        put_at(size) {
    const float decay = ac[0] * ac[1], steps = std::log(LEAST) / std::log(decay);
    window = decay < 1 && steps < 1e6f ? static_cast<int>(steps) + 1 : 1 << 30;
  }

  float* row(int i) { return rows[i].data(); }

  // Where row c of an array [(A + 1) F] of this run begins.
  int64_t begin(int c) const { return (actor.r * (1 + A) + (c == 0 ? A : c - 1)) * size; }

  void load(float decay) {
    const int64_t r = actor.r;
    for (int c = 0; c < 1 + A; c++) {
      const float* w = c == 0 ? arrays.old(0) + r * size : arrays.old(1) + (r * A + c - 1) * size;
      for (int64_t f = 0; f < size; f++) home[0][f * ROWS + c] = w[f];
      for (int i = 1; i < 2 + Tuner::ROWS; i++) {
        const float* from = arrays.old(1 + i) + begin(c);
        for (int64_t f = 0; f < size; f++) home[i][f * ROWS + c] = from[f];
      }
    }
    if (!actor.active()) return;  // it is written out as it came
    // From here on traces have decayed as the next update wants them.
    const float fade = actor.continues() ? decay : 0;
    for (float& x : home[1]) x *= fade;
    if (Tuner::TRACE >= 0)
      for (float& x : home[2 + Tuner::TRACE]) x *= fade;
    for (int32_t f = 0; f < size; f++) {
      bool traced = false;
      for (int c = 0; c < ROWS; c++) traced |= home[1][f * ROWS + c] != 0;
      if (traced) pack(f, 0);
    }
  }

  void store() {
    while (packed) put(packed - 1, true);
    for (int64_t f = 0; f < size; f++) rest(static_cast<int32_t>(f));
    tuner.finish(home[2 + Tuner::BETA].data(), size * ROWS);
    const int64_t r = actor.r;
    for (int c = 0; c < 1 + A; c++) {
      float* w =
          c == 0 ? arrays.changed(0) + r * size : arrays.changed(1) + (r * A + c - 1) * size;
      for (int64_t f = 0; f < size; f++) w[f] = home[0][f * ROWS + c];
      for (int i = 1; i < 2 + Tuner::ROWS; i++) {
        float* to = arrays.changed(1 + i) + begin(c);
        for (int64_t f = 0; f < size; f++) to[f] = home[i][f * ROWS + c];
      }
    }
  }

  // Does to a feature that is not packed what the updates since would have done.
  void rest(int32_t f) {
    const int missed = updates - put_at[f];
    if (Tuner::FADES >= 0 && missed) {
      const float left = std::pow(tuner.fading(), static_cast<float>(missed));
      for (int c = 0; c < ROWS; c++) home[2 + Tuner::FADES][f * ROWS + c] *= left;
    }
    put_at[f] = updates;
  }

  void pack(int32_t f, int t) {
    rest(f);
    const int s = slot[f] = packed++;
    feature[s] = f;
    last[s] = t;
    for (int i = 0; i < 2 + Tuner::ROWS; i++)
      std::memcpy(row(i) + s * ROWS, home[i].data() + f * ROWS, ROWS * sizeof(float));
    for (int c = 0; c < ROWS; c++) e[s * ROWS + c] = std::exp(row(2 + Tuner::BETA)[s * ROWS + c]);
  }

  // Puts a slot back, and the last one in its place.
  void put(int s, bool traced) {
    const int32_t f = feature[s], end = --packed;
    for (int i = 0; i < 2 + Tuner::ROWS; i++) {
      const bool over = !traced && (i == 1 || i == 2 + Tuner::TRACE);
      if (over)
        std::fill_n(home[i].data() + f * ROWS, ROWS, 0.0f);
      else
        std::memcpy(home[i].data() + f * ROWS, row(i) + s * ROWS, ROWS * sizeof(float));
      std::memmove(row(i) + s * ROWS, row(i) + end * ROWS, ROWS * sizeof(float));
    }
    std::memmove(e.data() + s * ROWS, e.data() + end * ROWS, ROWS * sizeof(float));
    feature[s] = feature[end];
    last[s] = last[end];
    slot[feature[s]] = s;
    slot[f] = -1;
    put_at[f] = updates;
  }

  void pack_all(const Entries& phi, int t) {
    const int32_t* slots = slot.data();
    int32_t* seen = last.data();
    for (int k = 0; k < phi.n; k++) {
      const int s = slots[phi.index[k]];
      if (s < 0)
        pack(phi.index[k], t);
      else
        seen[s] = t;
    }
  }

  // Writes w phi, [ROWS].
  void outputs(const Entries& phi, float* out) const {
    const int32_t* slots = slot.data();
    const float* w = rows[0].data();
    Four sums[ROWS / 4] = {};
    for (int k = 0; k < phi.n; k++)
      for (int v = 0; v < ROWS / 4; v++)
        sums[v] += phi.value[k] * four(w + slots[phi.index[k]] * ROWS + 4 * v);
    std::memcpy(out, sums, sizeof sums);
  }

  // Makes one update (Algorithms 2 and 3 of Metatrace, from line 5 on). Traces are those of the
  // step before, decayed by `decay`; `fade` is what they decay by until the next one.
  void learn(const Policy<A>& policy, int action, float decay, float fade, const Transition& made,
             float value) {
    const float psi = ac[2], most = ac[3], discount = ac[0] * made.discount;
    float grad[ROWS] = {}, bonus[ROWS] = {}, next[ROWS];
    policy.gradients(action, psi, grad, bonus);
    outputs(actor.next, next);
    const float reward = std::min(std::max(made.reward, -most), most);
    const float delta = reward + discount * next[0] - value;
    if (!actor.finite(delta, 0)) return;
    const Step<ROWS> step = {actor.now, actor.next,    slot.data(), grad,     bonus,  psi != 0,
                             delta,     decay,         ac[0] * ac[1], fade,   discount, row(0),
                             row(1),    e.data(),      packed * ROWS};
    float* of_tuner[Tuner::ROWS];
    for (int i = 0; i < Tuner::ROWS; i++) of_tuner[i] = row(2 + i);
    if (actor.finite(delta, tuner.update(step, of_tuner))) updates++;
  }

  void advance() {
    const int steps = static_cast<int>(actor.sizes.steps);
    const float decay = ac[0] * ac[1];
    load(decay);
    pack_all(actor.now, 0);
    float out[ROWS];
    for (int t = 0; t < steps && actor.active(); t++) {
      outputs(actor.now, out);
      const Policy<A> policy(out + 1);
      const int action = actor.act(t, policy);
      const float now_decay = actor.continues() ? decay : 0;
      const Transition made = actor.step(t, action);
      if (made.first)
        while (packed) put(packed - 1, false);
      pack_all(actor.next, t);
      if (!made.first) {
        // After the last update traces are left as it made them.
        const bool last_one = t + 1 == steps || !actor.active();
        const float fade = last_one ? 1 : made.discount > 0 ? decay : 0;
        learn(policy, action, now_decay, fade, made, out[0]);
      }
      actor.advance();
      if (t % OLD == 0)
        for (int s = packed - 1; s >= 0; s--)
          if (last[s] < t - window) put(s, false);
    }
    actor.finish();
    store();
  }
};
