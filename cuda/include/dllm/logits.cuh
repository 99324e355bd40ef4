// Rows of logits as they lie in memory: bfloat16 (Bf16), float16 (F16) or float32 (float), and ids that count as -inf.
#pragma once

#include "dllm/arithmetic.cuh"
#include "dllm/elements.cuh"

namespace dllm {

// A row of logits. `suppressed` is null, or holds one bit for each id: those set count as -inf. A bound on the logits comes
// before that, and what it gives is rounded to their type.
template <typename T>
struct Row {
    const T* logits;
    const uint8_t* suppressed;
    int vocabulary;
    Softcap softcap;

    __device__ __forceinline__ bool is_suppressed(int id) const {
        return suppressed != nullptr && (suppressed[id >> 3] >> (id & 7) & 1);
    }

    // The logit of an id, -inf where suppressed.
    __device__ __forceinline__ float value(int id) const {
        if (is_suppressed(id)) {
            return negative_infinity();
        }
        const float x = widen(logits[id]);
        return softcap.cap == 0.0f ? x : Words<T>::element(Words<T>::word(softcap.apply(x), 0.0f), 0);
    }

    // The same, and -inf beyond the vocabulary.
    __device__ __forceinline__ float value_or_nothing(int id) const {
        return id < vocabulary ? value(id) : negative_infinity();
    }
};

}  // namespace dllm
