"""Ordered loads and stores for memory that two processes or two threads look at.

Every shared word has one writer; readers may see an old value but never a torn one. Many servers are Arm, where plain stores may
become visible in another order than written, so what publishes data is a release and what reads it first is an acquire. `swap64` is for
the one word by which several settle who the writer is.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from *:
    """
    #define UFRAG_LOAD(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define UFRAG_STORE(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define UFRAG_PREFETCH(p) __builtin_prefetch((p))
    static inline void ufrag_touch(const void* p) { (void)*(const volatile unsigned char*)p; }
    static inline void ufrag_touch_lines(const void* p, size_t bytes) {
        for (size_t at = 0; at < bytes; at += 64) ufrag_touch((const char*)p + at);
    }
    static inline int ufrag_swap64(uint64_t* word, uint64_t from, uint64_t to) {
        return __atomic_compare_exchange_n(word, &from, to, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    }
    static inline void ufrag_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    static inline void ufrag_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    """
    uint8_t load8 "UFRAG_LOAD"(const uint8_t* word) noexcept nogil
    uint16_t load16 "UFRAG_LOAD"(const uint16_t* word) noexcept nogil
    uint32_t load32 "UFRAG_LOAD"(const uint32_t* word) noexcept nogil
    uint64_t load64 "UFRAG_LOAD"(const uint64_t* word) noexcept nogil
    void store8 "UFRAG_STORE"(uint8_t* word, uint8_t value) noexcept nogil
    void store16 "UFRAG_STORE"(uint16_t* word, uint16_t value) noexcept nogil
    void store32 "UFRAG_STORE"(uint32_t* word, uint32_t value) noexcept nogil
    void store64 "UFRAG_STORE"(uint64_t* word, uint64_t value) noexcept nogil
    bint swap64 "ufrag_swap64"(uint64_t* word, uint64_t old, uint64_t new) noexcept nogil
    void fence_release "ufrag_fence_release"() noexcept nogil
    void fence_acquire "ufrag_fence_acquire"() noexcept nogil
    void prefetch "UFRAG_PREFETCH"(const void* address) noexcept nogil
    # What a prefetch should do and some processors do not when the page is not in the TLB: a load whose value nobody waits for.
    void touch "ufrag_touch"(const void* address) noexcept nogil
    void touch_lines "ufrag_touch_lines"(const void* address, size_t size) noexcept nogil
