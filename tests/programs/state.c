// Registers, FPU and vector state, thread-local storage and memory survive system calls.
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static __thread uint64_t local = 0x1122334455667788;

__attribute__((target("avx"))) static int vectors(void) {
    float out[8];
    __m256 value = _mm256_set_ps(8, 7, 6, 5, 4, 3, 2, 1);
    for (int i = 0; i < 100; i++) {
        long result;
        // All sixteen vector registers but this one are free to the compiler; the call must keep it.
        __asm__ volatile("vmovaps %1, %%ymm9\n\tsyscall\n\tvmovaps %%ymm9, %1"
                         : "=a"(result), "+x"(value)
                         : "a"(SYS_getpid)
                         : "rcx", "r11", "memory", "xmm9");
    }
    _mm256_storeu_ps(out, value);
    return out[0] == 1 && out[7] == 8;
}

static int registers(void) {
    uint64_t bad = 0;
    for (int i = 0; i < 100; i++)
        __asm__ volatile("mov $0x1111, %%r12\n\tmov $0x2222, %%r13\n\tmov $0x3333, %%rdi\n\tmov $39, %%eax\n\tsyscall\n\t"
                         "xor $0x1111, %%r12\n\txor $0x2222, %%r13\n\txor $0x3333, %%rdi\n\t"
                         "or %%r12, %0\n\tor %%r13, %0\n\tor %%rdi, %0"
                         : "+r"(bad)
                         :
                         : "rax", "rcx", "r11", "r12", "r13", "rdi", "memory");
    return bad == 0;
}

int main(void) {
    char *memory = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int wrong = memory == MAP_FAILED;
    for (size_t at = 0; !wrong && at < 64 << 20; at += 4096)
        memory[at] = (char)(at >> 12);
    for (size_t at = 0; !wrong && at < 64 << 20; at += 4096)
        wrong |= memory[at] != (char)(at >> 12);
    if (!__builtin_cpu_supports("avx") || !vectors())
        wrong |= 2;
    if (!registers())
        wrong |= 4;
    if (local != 0x1122334455667788)
        wrong |= 8;
    if (wrong)
        printf("wrong: %d\n", wrong);
    else
        printf("state survives\n");
    return wrong;
}
