// The entry of the machine code: all runs, in threads that take one after another.
#pragma once
#include <atomic>
#include <thread>
#include <type_traits>
#include <vector>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "_each.h"
#include "_one.h"

template <class Env, class Features, class Tuner, int A>
void advance_all(const Runs& runs, void* const* leaves, float* const* arrays, const Sizes& sizes) {
  using Learner = typename std::conditional<Tuner::EACH, Each<Env, Features, Tuner, A>,
                                            One<Env, Features, Tuner, A>>::type;
  const typename Learner::Arrays own(arrays);
  std::atomic<int64_t> taken{0};
  auto work = [&] {
#ifdef __SSE__
    _mm_setcsr(_mm_getcsr() | 0x8040);  // numbers nearest to 0 are slow: they are 0, as in XLA
#endif
    for (int64_t r; (r = taken++) < sizes.runs;)
      Learner(runs, sizes, leaves, own, static_cast<int>(r)).advance();
  };
  std::vector<std::thread> threads;
  for (int64_t i = 0; i < std::min(sizes.threads, sizes.runs); i++) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
}
