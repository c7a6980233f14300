// Tuners of one step size: ScalarTuner.adapt on the scalars of a run.
//
// adapt() changes the scalars, in the order of the leaves of the tuner's rule, and returns alpha;
// settings are the numbers that the tuner's native() gives.
#pragma once
#include <algorithm>
#include <cmath>

// Dots of core/api/online.py, and |z|_1.
struct Dots {
  float delta, decay, u_h, bonus_h, trace_h, trace_delta, u_u, trace_1;
};

// Log step size with what its ascent remembers: Beta of _metatrace.py.
struct Beta {
  float beta, trace, v;

  // See _metatrace.ascend.
  void ascend(float u_h, float bonus_h, float delta, float decay, float mu, bool normalised) {
    trace = decay * trace + u_h;
    float d = trace * delta + bonus_h;
    if (normalised) {
      const float size = std::fabs(d);
      v = std::max(size, v + mu * (size - v));
      d /= v > 0 ? v : 1;
    }
    beta += mu * d;
  }
};

// Changes u and returns log M: see _metatrace.effective_step.
inline float effective_step(float& u, float now, float decay) {
  u = std::max(now, u + (1 - decay) * (now - u));
  return u > 1 ? std::log(u) : 0;
}

struct ConstantStep {
  static constexpr bool EACH = false, HAS_H = false;
  static float adapt(float* rule, const float*, const Dots&) { return std::exp(rule[0]); }
};

struct Metatrace {  // settings: mu, whether it is normalised
  static constexpr bool EACH = false, HAS_H = true;
  static float adapt(float* rule, const float* settings, const Dots& x) {
    Beta& b = *reinterpret_cast<Beta*>(rule);
    const Beta before = b;
    const bool normalised = settings[1] > 0;
    b.ascend(x.u_h, x.bonus_h, x.delta, x.decay, settings[0], normalised);
    const float alpha = std::exp(b.beta);
    if (!normalised) return alpha;
    float u = rule[3];
    const float log_m = effective_step(u, alpha * x.u_u, x.decay);
    if (!std::isfinite(log_m)) {  // else all steps from here on would be 0
      b = before;
      return log_m;
    }
    rule[3] = u;
    b.beta -= log_m;
    return log_m > 0 ? std::exp(b.beta) : alpha;
  }
};

struct Sid {  // settings: mu
  static constexpr bool EACH = false, HAS_H = true;
  static float adapt(float* rule, const float* settings, const Dots& x) {
    rule[0] += settings[0] * (x.delta * x.trace_h + x.bonus_h);
    return std::exp(rule[0]);
  }
};

struct Nosid {  // settings: mu, whether the hard maximum is of delta
  static constexpr bool EACH = false, HAS_H = true;
  static float adapt(float* rule, const float* settings, const Dots& x) {
    float &beta = rule[0], &largest = rule[1];
    const float step = x.delta * x.trace_h + x.bonus_h;
    largest = std::max(largest, std::fabs(settings[1] > 0 ? x.delta : step));
    beta += settings[0] * step / (largest > 0 ? largest : 1);
    const float overlap = std::fabs(x.trace_delta);
    if (overlap > 0) beta = std::min(beta, -std::log(overlap));
    return std::exp(beta);
  }
};

struct ObGD {  // settings: kappa
  static constexpr bool EACH = false, HAS_H = false;
  static float adapt(float* state, const float* settings, const Dots& x) {
    const float size = std::max(std::fabs(x.delta), 1.0f) * x.trace_1;
    return state[1] = state[0] / std::max(state[0] * settings[0] * size, 1.0f);
  }
};
