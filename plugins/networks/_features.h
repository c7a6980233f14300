// Features of linear networks: of an observation's entries that are not 0, those of the features.
#pragma once
#include <algorithm>

#include "../../core/api/native.h"

// Features that are the observation.
struct Same {
  static void features(const float*, const Entries& in, Entries& out) {
    out.n = in.n;
    std::copy(in.index, in.index + in.n, out.index);
    std::copy(in.value, in.value + in.n, out.value);
  }
};

// The tile coding of _tiles.py, in float32 like it; settings: the least and the greatest
// observation, [2 D].
template <int D, int TILINGS, int TILES>
struct Tiles {
  static void features(const float* bounds, const Entries& in, Entries& out) {
    float x[D] = {};
    for (int i = 0; i < in.n; i++) x[in.index[i]] = in.value[i];
    int stride = 1;
    out.n = TILINGS;
    for (int d = 0; d < D; d++) {
      const float low = bounds[d], high = bounds[D + d];
      const float unit = std::min(std::max((x[d] - low) / (high - low), 0.0f), 1.0f);
      const float scaled = unit * (TILES - 1);
      // Truncation is the floor of what is not negative.
      for (int j = 0; j < TILINGS; j++) {
        const float offset = static_cast<float>(j * (2 * d + 1) % TILINGS) / TILINGS;
        const int cell = static_cast<int>(scaled + offset) * stride;
        out.index[j] = d == 0 ? cell : out.index[j] + cell;
      }
      stride *= TILES;
    }
    for (int j = 0; j < TILINGS; j++) out.index[j] += j * stride, out.value[j] = 1;
  }
};
