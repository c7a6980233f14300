// Tuners of a step size for each parameter: Tuner.update on what of them is in the trace.
//
// update() is given the arrays of the tuner's state, [n] each, in the order of its leaves, and moves
// them, w and z; it returns 0, or what was not finite, by which the run ends. e is exp(beta), without what all step sizes have in common. As constants a tuner
// has the number of these arrays, and which is beta; which is a trace, and which fades by fading()
// at every update that leaves it alone (-1: none).
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "../../core/api/native.h"
#include "_rules.h"

// What a tuner is given; N numbers a feature, the value's first, in fours.
template <int N>
struct Step {
  const Entries &phi, &next;  // features of the timestep, and of the next one
  const int32_t* slot;        // where the numbers of a feature begin, in N
  const float *grad, *bonus;  // grad U and psi grad H are these times phi, [N]
  bool entropic;              // whether psi is not 0
  float delta, decay;         // as in TunerInputs
  float full_decay;           // gamma lambda
  float fade;                 // by which traces are to be multiplied at last
  float discount;             // gamma d'
  float *w, *z, *e;           // z: with the decay of this step, without its grad U
  int n;

  int at(const Entries& x, int k) const { return slot[x.index[k]] * N; }

  // w <- w + scale e (z delta + bonus), h alike with its own delta, and g as well; z fades.
  void move(float scale, float* h, float h_delta, float* g = nullptr, float g_delta = 0) const {
    const float along_w = scale * delta, along_h = scale * h_delta, left = fade;
    float *__restrict w_ = w, *__restrict z_ = z, *__restrict h_ = h;
    const float* __restrict e_ = e;
    if (g) {
      const float along_g = scale * g_delta;
      float* __restrict g_ = g;
      for (int i = 0; i < n; i++) {
        const float t = e_[i] * z_[i];
        w_[i] += along_w * t;
        h_[i] += along_h * t;
        g_[i] += along_g * t;
        z_[i] *= left;
      }
    } else {
      for (int i = 0; i < n; i++) {
        const float t = e_[i] * z_[i];
        w_[i] += along_w * t;
        h_[i] += along_h * t;
        z_[i] *= left;
      }
    }
    if (!entropic) return;
    for (float* x : {w, h, g})
      for (int k = 0; x && k < phi.n; k++)
        for (int c = 1; c < N; c++) {
          const int i = at(phi, k) + c;
          x[i] += scale * e[i] * phi.value[k] * bonus[c];
        }
  }
};

// Vector Metatrace, and mixed; settings: mu, whether it is normalised.
template <bool MIXED>
struct MetatraceEach {
  static constexpr bool EACH = true;
  static constexpr int ROWS = MIXED ? 5 : 4, BETA = 0, TRACE = 1, FADES = 2, H = ROWS - 1;

  Beta none = {0, 0, 0};
  Beta& shared;  // of vector Metatrace only what all beta have been reduced by
  float& u;
  const float mu;
  const bool normalised;
  std::vector<float> extra, change;  // psi grad H h, [n]; what grad delta adds to h

  MetatraceEach(float* scalars, const float* settings)
      : shared(MIXED ? *reinterpret_cast<Beta*>(scalars) : none),
        u(scalars[MIXED ? 3 : 0]),
        mu(settings[0]),
        normalised(settings[1] > 0) {}

  float fading() const { return normalised ? 1 - mu : 1; }

  void finish(float* beta, int64_t n) const {
    if (!MIXED)
      for (int64_t i = 0; i < n; i++) beta[i] += shared.beta;
  }

  template <int N>
  float update(const Step<N>& s, float* const* rows) {
    float *trace = rows[TRACE], *h = rows[H], *shared_h = MIXED ? rows[3] : nullptr;
    float bonus_h = 0;
    Four u_h = {};
    for (int k = 0; k < s.phi.n; k++)
      for (int c = 0; c < N; c += 4) {
        const int i = s.at(s.phi, k) + c;
        const Four g = s.phi.value[k] * four(s.grad + c);
        put(s.z + i, four(s.z + i) + g);
        put(trace + i, four(trace + i) + g * four(h + i));  // line 7
        if (MIXED) u_h += g * four(shared_h + i);
      }
    if (s.entropic) {
      extra.resize(std::max<size_t>(extra.size(), s.n));
      for (int k = 0; k < s.phi.n; k++)
        for (int c = 0; c < N; c++) {
          const int i = s.at(s.phi, k) + c;
          extra[i] = s.phi.value[k] * s.bonus[c] * h[i];
          if (MIXED) bonus_h += s.phi.value[k] * s.bonus[c] * shared_h[i];
        }
    }
    if (!normalised || mu > 0.03f || s.entropic)
      ascend(s, rows);
    else
      ascend_plainly(s, rows);
    if (MIXED) shared.ascend(total(u_h), bonus_h, s.delta, s.decay, mu, normalised);
    float scale = std::exp(shared.beta);
    if (normalised) {
      Four now = {};
      for (int k = 0; k < s.phi.n; k++)
        for (int c = 0; c < N; c += 4) {
          const Four g = s.phi.value[k] * four(s.grad + c);
          now += four(s.e + s.at(s.phi, k) + c) * g * g;
        }
      const float log_m = effective_step(u, scale * total(now), s.decay);
      if (!std::isfinite(log_m)) return log_m;  // else all steps from here on would be 0
      if (log_m > 0) scale = std::exp(shared.beta -= log_m);
    }
    // Line 14: h sees its own parameter's share of grad delta, that of all sees the whole of it. All
    // of them are of h before this step.
    change.resize(s.phi.n + s.next.n);
    float shared_delta = s.delta;
    for (int k = 0; k < s.phi.n; k++) {
      const int i = s.at(s.phi, k);
      change[k] = -scale * s.phi.value[k] * s.e[i] * s.z[i] * h[i];
      if (MIXED) shared_delta -= s.phi.value[k] * shared_h[i];
    }
    for (int k = 0; k < s.next.n; k++) {
      const int i = s.at(s.next, k);
      const float d = s.discount * s.next.value[k];
      change[s.phi.n + k] = scale * d * s.e[i] * s.z[i] * h[i];
      if (MIXED) shared_delta += d * shared_h[i];
    }
    for (int k = 0; k < s.phi.n; k++) h[s.at(s.phi, k)] += change[k];
    for (int k = 0; k < s.next.n; k++) h[s.at(s.next, k)] += change[s.phi.n + k];
    s.move(scale, h, s.delta, shared_h, shared_delta);
    return 0;
  }

  // Lines 8 to 10, and the trace fades: no step of beta is longer than mu, so that a short series
  // has the step of e to the last bit or two.
  template <int N>
  void ascend_plainly(const Step<N>& s, float* const* rows) {
    const float delta = s.delta, mu = this->mu, fade = s.fade;
    float *__restrict beta = rows[BETA], *__restrict trace = rows[TRACE],
          *__restrict v = rows[FADES], *__restrict e = s.e;
    for (int i = 0; i < s.n; i++) {
      const float d = trace[i] * delta, size = std::fabs(d), before = v[i];
      const float kept = before + mu * (size - before), largest = size > kept ? size : kept;
      const float step = mu * d / (largest > 0 ? largest : 1);
      v[i] = largest;
      beta[i] += step;
      e[i] *= 1 + step * (1 + step * (0.5f + step * (1.0f / 6 + step * (1.0f / 24))));
      trace[i] *= fade;
    }
  }

  // The same with an entropy bonus, or where a step of beta may be long.
  template <int N>
  void ascend(const Step<N>& s, float* const* rows) {
    for (int i = 0; i < s.n; i++) {
      Beta b = {rows[BETA][i], rows[TRACE][i], rows[FADES][i]};
      b.ascend(0, s.entropic ? extra[i] : 0, s.delta, 1, mu, normalised);
      rows[BETA][i] = b.beta, rows[TRACE][i] = b.trace * s.fade, rows[FADES][i] = b.v;
      s.e[i] = std::exp(b.beta);
    }
    if (s.entropic)
      for (int k = 0; k < s.phi.n; k++) std::fill_n(extra.data() + s.at(s.phi, k), N, 0.0f);
  }
};

using MetatraceVector = MetatraceEach<false>;
using MetatraceMixed = MetatraceEach<true>;

struct Tidbd {  // settings: mu
  static constexpr bool EACH = true;
  static constexpr int ROWS = 2, BETA = 0, TRACE = -1, FADES = -1, H = 1;
  const float mu;

  Tidbd(float*, const float* settings) : mu(settings[0]) {}
  float fading() const { return 1; }
  void finish(float*, int64_t) const {}

  template <int N>
  float update(const Step<N>& s, float* const* rows) {
    float *beta = rows[BETA], *h = rows[H];
    for (int k = 0; k < s.phi.n; k++)
      for (int c = 0; c < N; c++) {
        const int i = s.at(s.phi, k) + c;
        const float g = s.phi.value[k] * s.grad[c];
        s.z[i] += g;
        beta[i] += mu * s.delta * g * h[i];
        s.e[i] = std::exp(beta[i]);
        h[i] *= std::max(1 - s.e[i] * g * s.z[i], 0.0f);
      }
    s.move(1, h, s.delta);
    return 0;
  }
};

struct AutoTidbd {  // settings: mu, tau
  static constexpr bool EACH = true;
  static constexpr int ROWS = 3, BETA = 0, TRACE = -1, FADES = -1, H = 2;
  const float mu, tau;
  float shared = 0;  // what all beta have been reduced by
  std::vector<float> gradient, d;
  std::vector<int> touched;

  AutoTidbd(float*, const float* settings) : mu(settings[0]), tau(settings[1]) {}
  float fading() const { return 1; }
  void finish(float* beta, int64_t n) const {
    for (int64_t i = 0; i < n; i++) beta[i] += shared;
  }

  template <int N>
  float update(const Step<N>& s, float* const* rows) {
    float *beta = rows[BETA], *v = rows[1], *h = rows[H];
    gradient.resize(std::max<size_t>(gradient.size(), s.n));
    d.resize(gradient.size());
    touched.clear();
    for (int k = 0; k < s.next.n && s.discount != 0; k++) {
      const int i = s.at(s.next, k);
      touched.push_back(i);
      d[i] = s.discount * s.next.value[k];
    }
    for (int k = 0; k < s.phi.n; k++)
      for (int c = 0; c < N; c++) {
        const int i = s.at(s.phi, k) + c;
        if (d[i] == 0) touched.push_back(i);
        gradient[i] = s.phi.value[k] * s.grad[c];
        d[i] -= gradient[i];
      }
    const float before = std::exp(shared);
    float effective = 0;
    for (const int i : touched) {
      const float step = s.delta * d[i] * h[i], trace = s.z[i] / s.full_decay;  // z of before
      const float forget = before * s.e[i] * d[i] * trace *
                           (std::fabs(s.delta * gradient[i] * h[i]) - v[i]);
      v[i] = std::max(std::fabs(step), v[i] - forget / tau);
      beta[i] -= mu * step / (v[i] > 0 ? v[i] : 1);
      s.e[i] = std::exp(beta[i]);
      effective -= s.e[i] * d[i] * trace;
    }
    shared -= std::log(std::max(before * effective, 1.0f));
    const float scale = std::exp(shared);
    for (const int i : touched) {
      s.z[i] += gradient[i];
      h[i] *= std::max(1 + scale * s.e[i] * d[i] * s.z[i], 0.0f);
      gradient[i] = d[i] = 0;
    }
    s.move(scale, h, s.delta);
    return 0;
  }
};
