// What machine code of plugins exchanges; see core/api/native.py.
#pragma once
#include <cstdint>

// The numbers of an observation, or of features, that are not 0, in ascending order of their places.
struct Entries {
  int n;
  int32_t* index;
  float* value;
};

// A step of an environment, without its observation: see TimeStep.
struct Transition {
  float reward, discount;
  bool first;
};
