// What machine code of plugins exchanges; see core/api/native.py.
#pragma once
#include <cstdint>
#include <cstring>

// The numbers of an observation, or of features, that are not 0, in ascending order of their places.
struct Entries {
  int n;
  int32_t* index;
  float* value;
};

// Four numbers as one, and how they are read and written wherever they lie.
typedef float Four __attribute__((vector_size(16)));

inline Four four(const float* x) {
  Four y;
  std::memcpy(&y, x, sizeof y);
  return y;
}

inline void put(float* x, Four y) { std::memcpy(x, &y, sizeof y); }

inline float total(Four x) { return x[0] + x[1] + x[2] + x[3]; }

// A step of an environment, without its observation: see TimeStep.
struct Transition {
  float reward, discount;
  bool first;
};
