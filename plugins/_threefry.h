// JAX's default random numbers, Threefry-2x32 (Salmon et al. 2011).
//
// The streams are those of jax.random with jax_threefry_partitionable, to the bit: number i of a
// key is a hash of the key and i.
#pragma once
#include <cstdint>
#include <cstring>

struct Key {
  uint32_t a, b;
};

// Hashes a key and a counter below 2^32: key i of jax.random.split, and jax.random.fold_in(key, i).
inline Key threefry(Key key, uint32_t i) {
  const uint32_t k[3] = {key.a, key.b, key.a ^ key.b ^ 0x1BD11BDAu};
  const int turns[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
  uint32_t x = k[0], y = i + k[1];
  for (uint32_t group = 0; group < 5; group++) {
    for (int turn : turns[group % 2]) {
      x += y;
      y = (y << turn) | (y >> (32 - turn));
      y ^= x;
    }
    x += k[(group + 1) % 3];
    y += k[(group + 2) % 3] + group + 1;
  }
  return {x, y};
}

// Word i of jax.random.bits(key, ..., uint32).
inline uint32_t random_bits(Key key, uint32_t i) {
  const Key word = threefry(key, i);
  return word.a ^ word.b;
}

// The number in [0, 1) that jax.random.uniform makes of a random word.
inline float uniform(uint32_t word) {
  const uint32_t bits = (word >> 9) | 0x3F800000u;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x - 1;
}
