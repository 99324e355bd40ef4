// The matrix instructions of a warp, element by element from the layouts that ptx.cuh documents.
#include "emulator.h"

namespace emu {
namespace {

using Element = uint16_t;

float widen_bfloat(Element bits) {
    const uint32_t word = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
}

struct Registers {
    Element halves[8];  // two for each of four registers
};

// Lane l gave the address of row l % 8 of matrix l / 8.
Element element(const void* const (&rows)[WARP], int matrix, int row, int column) {
    Element x;
    std::memcpy(&x, static_cast<const char*>(rows[8 * matrix + row]) + sizeof(Element) * size_t(column), sizeof x);
    return x;
}

// The eight rows of a matrix are read at once: two in the same of the eight groups of banks, 16 bytes wide, come one after the
// other. That is slow and not wrong, so nothing else would show it.
void require_different_banks(const void* const (&rows)[WARP]) {
    for (int matrix = 0; matrix < 4; ++matrix) {
        unsigned groups = 0;
        for (int row = 0; row < 8; ++row) {
            groups |= 1u << (reinterpret_cast<uintptr_t>(rows[8 * matrix + row]) / 16 % 8);
        }
        if (groups != 0xffu) {
            fail("the rows of a matrix meet in the same banks of shared memory");
        }
    }
}

template <bool TRANSPOSED>
void load(const void* const (&rows)[WARP], Registers (&results)[WARP]) {
    require_different_banks(rows);
    for (int lane = 0; lane < WARP; ++lane) {
        for (int matrix = 0; matrix < 4; ++matrix) {
            for (int half = 0; half < 2; ++half) {
                const int across = lane / 4, along = 2 * (lane % 4) + half;
                results[lane].halves[2 * matrix + half] =
                    TRANSPOSED ? element(rows, matrix, along, across) : element(rows, matrix, across, along);
            }
        }
    }
}

template <bool TRANSPOSED>
void load_checked(const char* name, uint32_t (&registers)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        fail("a row of a matrix at an address that is not a multiple of 16");
    }
    if (watch != nullptr) {
        watch(row, 16, Access::read);
    }
    const Registers result = warp_operation<Registers, const void*, load<TRANSPOSED>>(name, row);
    std::memcpy(registers, &result, sizeof registers);
}

struct Product {
    Element a[8];
    Element b[4];
    float sum[4];
};

struct Sum {
    float values[4];
};

template <float (*widen)(Element)>
void multiply(const Product (&lanes)[WARP], Sum (&results)[WARP]) {
    float a[16][16], b[16][8], c[16][8];
    for (int lane = 0; lane < WARP; ++lane) {
        const int g = lane / 4, t = lane % 4;
        for (int half = 0; half < 2; ++half) {
            for (int r = 0; r < 4; ++r) {
                a[g + 8 * (r % 2)][2 * t + 8 * (r / 2) + half] = widen(lanes[lane].a[2 * r + half]);
            }
            for (int r = 0; r < 2; ++r) {
                b[2 * t + 8 * r + half][g] = widen(lanes[lane].b[2 * r + half]);
                c[g + 8 * r][2 * t + half] = lanes[lane].sum[2 * r + half];
            }
        }
    }
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 8; ++j) {
            float product = 0.0f;
            for (int k = 0; k < 16; ++k) {
                product += a[i][k] * b[k][j];
            }
            c[i][j] += product;
        }
    }
    for (int lane = 0; lane < WARP; ++lane) {
        for (int i = 0; i < 4; ++i) {
            results[lane].values[i] = c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
        }
    }
}

}  // namespace

void load_matrices(uint32_t (&registers)[4], const void* row) { load_checked<false>("ldmatrix", registers, row); }

void load_matrices_transposed(uint32_t (&registers)[4], const void* row) {
    load_checked<true>("ldmatrix.trans", registers, row);
}

template <float (*widen)(Element)>
void multiply_add(const char* name, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Product given;
    std::memcpy(given.a, a, sizeof given.a);
    std::memcpy(given.b, &b0, sizeof b0);
    std::memcpy(given.b + 2, &b1, sizeof b1);
    std::memcpy(given.sum, sum, sizeof given.sum);
    const Sum result = warp_operation<Sum, Product, multiply<widen>>(name, given);
    std::memcpy(sum, result.values, sizeof sum);
}

void multiply_add_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_add<widen_bfloat>("mma.bf16", sum, a, b0, b1);
}

void multiply_add_f16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    multiply_add<half_to_float>("mma.f16", sum, a, b0, b1);
}

}  // namespace emu
