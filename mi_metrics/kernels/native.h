// What the compiled twins share: the C interface, versions for the processor, threads.
//
// Every exported function has plain C types, touches only the memory that it is given, reports
// trouble by its result and throws nothing: it is called through ctypes, without the lock of
// Python. Whatever a function gives does not depend on the number of threads.
//
// -ffp-contract=off and no -ffast-math: arithmetic rounds as PyTorch's does, operation by
// operation.
#pragma once

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#if defined(_WIN32)
#define MI_EXPORT extern "C" __declspec(dllexport)
#else
#define MI_EXPORT extern "C" __attribute__((visibility("default")))
#endif

#if defined(__GNUC__) || defined(__clang__)
#define MI_INLINE inline __attribute__((always_inline))
#define MI_RESTRICT __restrict__
#else
#define MI_INLINE __forceinline
#define MI_RESTRICT __restrict
#endif

namespace mi {

// Runs `Body::run(arguments...)` compiled for AVX2 where the processor has it. `run` is a static
// MI_INLINE function; a lambda in it would not be compiled for AVX2.
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
inline bool has_avx2() {
  static const bool found = __builtin_cpu_supports("avx2");
  return found;
}

template <class Body, class... Arguments>
__attribute__((target("avx2"), noinline)) void run_avx2(Arguments... arguments) {
  Body::run(arguments...);
}

// The wide registers of 512 bits, and their comparisons and conversions.
inline bool has_avx512() {
  static const bool found = __builtin_cpu_supports("avx512f") &&
                            __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vl");
  return found;
}

template <class Body, class... Arguments>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"), noinline)) void run_avx512(
    Arguments... arguments) {
  Body::run(arguments...);
}

template <class Body, class... Arguments>
__attribute__((noinline)) void run_baseline(Arguments... arguments) {
  Body::run(arguments...);
}

template <class Body, class... Arguments>
void dispatch(Arguments... arguments) {
  if (has_avx2())
    run_avx2<Body>(arguments...);
  else
    run_baseline<Body>(arguments...);
}

// As `dispatch`, compiled for AVX-512 too: for bodies that gain from it.
template <class Body, class... Arguments>
void dispatch_wide(Arguments... arguments) {
  if (has_avx512())
    run_avx512<Body>(arguments...);
  else
    dispatch<Body>(arguments...);
}
#else
inline bool has_avx2() { return false; }

template <class Body, class... Arguments>
void dispatch_wide(Arguments... arguments) {
  Body::run(arguments...);
}

template <class Body, class... Arguments>
void dispatch(Arguments... arguments) {
  Body::run(arguments...);
}
#endif

// Fetches a line of memory that is read soon; it may lie beyond the end of an array.
MI_INLINE void prefetch(const void* where) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(where);
#else
  (void)where;
#endif
}

// How far apart copies of a table of so many counts of 32 bits begin: half a kB beyond whole pages.
// A processor tells addresses by their last twelve bits at first, so that it would take a cell for
// its neighbour in another copy that is still being written.
inline int64_t distance(int64_t cells) { return (cells + 1023) / 1024 * 1024 + 128; }

// Calls work(part) for the parts 0 … count - 1, on up to so many threads: each takes the next part
// that is left. `work` does not throw; what it makes of a part must not depend on the others.
template <class Work>
void in_parts(int64_t count, int64_t threads, const Work& work) {
  std::atomic<int64_t> next{0};
  const auto take = [&] {
    for (int64_t part; (part = next.fetch_add(1)) < count;) work(part);
  };
  std::vector<std::thread> others;
  try {
    if (threads > count) threads = count;
    for (int64_t i = 1; i < threads; i++) others.emplace_back(take);
  } catch (const std::exception&) {
    // The threads that are there do the work.
  }
  take();
  for (auto& other : others) other.join();
}

}  // namespace mi
