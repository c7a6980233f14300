// The entry of the machine code: all runs, in threads that take one after another.
#pragma once
#include <atomic>
#include <thread>
#include <vector>

#include "_one.h"

template <class Env, class Features, class Tuner, int A>
void advance_all(const Runs& runs, void* const* leaves, float* const* arrays, const Sizes& sizes) {
  using Learner = One<Env, Features, Tuner, A>;
  const typename Learner::Arrays own(arrays);
  std::atomic<int64_t> taken{0};
  auto work = [&] {
    for (int64_t r; (r = taken++) < sizes.runs;)
      Learner(runs, sizes, leaves, own, static_cast<int>(r)).advance();
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < std::min(sizes.threads, sizes.runs); i++) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
}
