// AC(lambda) with one step size: the cost of a step does not depend on how much is in the trace.
//
// Features that are not active keep what was last written for them: w~, z~, h~, and when that was.
// All traces decay alike, and w and h move along them, so of what was written q updates ago
//
//     w = w~ + a_q z~,    z = p_q z~,    h = h~ + b_q z~
//
// with p_q the product of the decays since, and a_q and b_q the sums of the steps along z since,
// each times p_q of its time. An update adds to these sums, reads the next features and writes the
// active ones; everything is written out at the end. Traces below LEAST of what they were are over.
#pragma once
#include <vector>

#include "../tuners/_rules.h"
#include "_run.h"

template <class Env, class Features, class Rule, int A>
struct One {
  static constexpr int ROWS = 1 + A, V = (ROWS + 3) / 4;
  static constexpr float LEAST = 1e-10f;
  struct alignas(64) Line {
    Four w[V], z[V], h[V];
    int32_t written;
    float x;  // of phi
  };
  struct Sums {  // (w, z, h) phi; row 0 is the value's
    Four w[V], z[V], h[V];
    float x;  // phi_t' phi
  };
  // [R, scalars], [R, 1, F], [R, 1, A, F], and twice [R, (A + 1) F], of policy and then value. h
  // is last, and not there if the tuner has none.
  struct Arrays {
    float* rule;
    const float *value, *policy, *z, *h;
    float *new_value, *new_policy, *new_z, *new_h;

    explicit Arrays(float* const* table)
        : rule(table[0]), value(table[1]), policy(table[2]), z(table[3]), h(table[4]) {
      float* const* changed = table + (Rule::HAS_H ? 5 : 4);
      new_value = changed[0], new_policy = changed[1], new_z = changed[2];
      new_h = Rule::HAS_H ? changed[3] : nullptr;
    }
  };

  static float& row(Four* x, int c) { return reinterpret_cast<float*>(x)[c]; }

  Actor<Env, Features, A> actor;
  const Arrays& arrays;
  const int64_t size;
  std::vector<Line> lines;
  std::vector<float> p, a, b;
  int oldest = 0, now = 1;
  float z_z = 0, z_h = 0, z_1 = 0;

  One(const Runs& runs, const Sizes& sizes, void* const* leaves, const Arrays& arrays, int r)
      : actor(runs, sizes, leaves, r),
        arrays(arrays),
        size(sizes.features),
        lines(size),
        p(sizes.steps + 2),
        a(sizes.steps + 2),
        b(sizes.steps + 2) {
    p[0] = 1;  // entry 0 is of what was there before
  }

  void load() {
    const int64_t r = actor.r, n = ROWS * size;
    for (int c = 0; c < ROWS; c++) {
      const float* w = c == 0 ? arrays.value + r * size : arrays.policy + (r * A + c - 1) * size;
      const int64_t at = r * n + (c == 0 ? A : c - 1) * size;
      for (int64_t f = 0; f < size; f++) {
        const float z = arrays.z[at + f], h = Rule::HAS_H ? arrays.h[at + f] : 0;
        row(lines[f].w, c) = w[f];
        row(lines[f].z, c) = z;
        row(lines[f].h, c) = h;
        z_z += z * z;
        z_h += z * h;
        z_1 += std::fabs(z);
      }
    }
  }

  void store() {
    const int64_t r = actor.r, n = ROWS * size;
    for (int c = 0; c < ROWS; c++) {
      float* w = c == 0 ? arrays.new_value + r * size : arrays.new_policy + (r * A + c - 1) * size;
      const int64_t at = r * n + (c == 0 ? A : c - 1) * size;
      for (int64_t f = 0; f < size; f++) {
        Line& line = lines[f];
        const int q = line.written;
        const float z = row(line.z, c);
        w[f] = row(line.w, c) + a[q] * z;
        arrays.new_z[at + f] = p[q] * z;
        if (Rule::HAS_H) arrays.new_h[at + f] = row(line.h, c) + b[q] * z;
      }
    }
  }

  Sums sums(const Entries& phi) const {
    Sums s = {};
    const Line* all = lines.data();
    const float *p_ = p.data(), *a_ = a.data(), *b_ = b.data();
    for (int k = 0; k < phi.n; k++) {
      const Line& line = all[phi.index[k]];
      const float x = phi.value[k];
      const int q = line.written;
      for (int v = 0; v < V; v++) {
        const Four z = x * line.z[v];
        s.w[v] += x * line.w[v] + a_[q] * z;
        s.z[v] += p_[q] * z;
        if (Rule::HAS_H) s.h[v] += x * line.h[v] + b_[q] * z;
      }
      s.x += x * line.x;
    }
    return s;
  }

  // Makes one update (Algorithm 1 of Metatrace, lines 5 to 15); phi is of the last timestep, next
  // of the new one, and what is added to its sums by the update is added.
  void learn(const Policy<A>& policy, int action, float decay, const Transition& made, Sums& phi,
             Sums& next) {
    const Runs& runs = actor.runs;
    const float *ac = runs.ac + 4 * actor.r, gamma = ac[0], psi = ac[2], most = ac[3];
    Four grad[V] = {}, bonus[V] = {};
    policy.gradients(action, psi, &row(grad, 0), &row(bonus, 0));
    const float discount = gamma * made.discount;
    const float delta = std::min(std::max(made.reward, -most), most) +
                        discount * next.w[0][0] - phi.w[0][0];
    const Entries& at = actor.now;
    const float shared = next.x;
    float own = 0;  // phi' phi
    for (int k = 0; k < at.n; k++) own += at.value[k] * at.value[k];
    const float g_g = dot(grad, grad), g_z = dot(grad, phi.z), g_h = dot(grad, phi.h);
    for (int v = 0; v < V; v++) {
      phi.z[v] = decay * phi.z[v] + own * grad[v];  // of the new trace, from here on
      next.z[v] = decay * next.z[v] + shared * grad[v];
    }
    z_z = decay * decay * z_z + 2 * decay * g_z + own * g_g;
    z_h = decay * z_h + g_h;
    if (!Rule::HAS_H) {
      z_1 *= decay;
      for (int k = 0; k < at.n; k++) {
        Line& line = lines[at.index[k]];
        for (int c = 0; c < ROWS; c++) {
          const float z = p[line.written] * decay * row(line.z, c);
          z_1 += std::fabs(z + at.value[k] * row(grad, c)) - std::fabs(z);
        }
      }
    }
    const Dots dots = {delta, decay, g_h, dot(bonus, phi.h), z_h,
                       discount * next.z[0][0] - phi.z[0][0], own * g_g, z_1};
    const Sizes& sizes = actor.sizes;
    const float alpha = Rule::adapt(arrays.rule + actor.r * sizes.rule,
                                    runs.tuner + actor.r * sizes.tuner_settings, dots);
    const float along_w = alpha * delta;
    const float along_h =  // line 14
        Rule::HAS_H ? alpha * (delta + discount * next.h[0][0] - phi.h[0][0]) : 0;
    if (!actor.finite(delta, along_w + along_h)) return;
    z_h += along_h * z_z + alpha * dot(bonus, phi.z);
    float *__restrict p_ = p.data(), *__restrict a_ = a.data(), *__restrict b_ = b.data();
    Line* all = lines.data();
    for (int k = 0; k < at.n; k++) {
      Line& line = all[at.index[k]];
      const float x = at.value[k];
      const int q = line.written;
      for (int v = 0; v < V; v++) {
        const Four z = line.z[v], more = x * alpha * bonus[v];
        line.w[v] += a_[q] * z + more;
        line.z[v] = p_[q] * decay * z + x * grad[v];
        if (Rule::HAS_H) line.h[v] += b_[q] * z + more;
      }
      line.written = now;
    }
    for (int q = oldest; q < now; q++) {
      const float more = p_[q] * decay;
      p_[q] = more;
      a_[q] += along_w * more;
      b_[q] += along_h * more;
    }
    p[now] = 1, a[now] = along_w, b[now] = along_h;
    now++;
    while (p[oldest] < LEAST) p[oldest++] = 0;
    for (int v = 0; v < V; v++) {
      const Four more = shared * alpha * bonus[v];
      next.w[v] += along_w * next.z[v] + more;
      if (Rule::HAS_H) next.h[v] += along_h * next.z[v] + more;
    }
  }

  static float dot(const Four* x, const Four* y) {
    Four sum = {};
    for (int v = 0; v < V; v++) sum += x[v] * y[v];
    return total(sum);
  }

  // Lets the lines know which features are active.
  void mark(const Entries& phi, bool on) {
    Line* all = lines.data();
    for (int k = 0; k < phi.n; k++) all[phi.index[k]].x = on ? phi.value[k] : 0;
  }

  void advance() {
    const float* ac = actor.runs.ac + 4 * actor.r;
    load();
    Sums phi = sums(actor.now);
    mark(actor.now, true);
    for (int t = 0; t < actor.sizes.steps && actor.active(); t++) {
      const Policy<A> policy(&row(phi.w, 1));
      const int action = actor.act(t, policy);
      const float decay = actor.continues() ? ac[0] * ac[1] : 0;
      const Transition made = actor.step(t, action);
      Sums next = sums(actor.next);
      if (!made.first) learn(policy, action, decay, made, phi, next);
      mark(actor.now, false);
      actor.advance();
      mark(actor.now, true);
      phi = next;
    }
    actor.finish();
    store();
  }
};
