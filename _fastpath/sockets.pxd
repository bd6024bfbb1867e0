"""The kernel's interface: every libc and system-call declaration the hot path uses, and no more.

Rules: only fields that are read or written here are declared (Cython takes the rest from the C header); no type of ours appears;
nothing is wrapped or renamed, so what the manual page says holds. Everything is `nogil`.
"""

from libc.stdint cimport uint16_t, uint32_t

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    ctypedef unsigned short sa_family_t

    int AF_INET
    int AF_INET6
    int MSG_DONTWAIT
    int MSG_TRUNC

    struct iovec:
        void* iov_base
        size_t iov_len

    struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags

    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

    struct timespec:
        pass

    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type

    unsigned char* CMSG_DATA(cmsghdr* cmsg)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)

    int recvmmsg(int fd, mmsghdr* messages, unsigned int count, int flags, timespec* timeout)
    int sendmmsg(int fd, mmsghdr* messages, unsigned int count, int flags)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_IP
    int IPPROTO_IPV6
    int IP_PKTINFO
    int IPV6_PKTINFO

    struct in_addr:
        uint32_t s_addr

    struct in6_addr:
        pass

    struct sockaddr_in:
        sa_family_t sin_family
        uint16_t sin_port
        in_addr sin_addr

    struct sockaddr_in6:
        sa_family_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id

    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr

    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex

cdef extern from "<sys/epoll.h>" nogil:
    int EPOLLIN
    int EPOLL_CTL_ADD

    ctypedef union epoll_data_t:
        uint32_t u32

    struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC
    int EFD_NONBLOCK

    int eventfd(unsigned int number, int flags)

cdef extern from "<time.h>" nogil:
    ctypedef int clockid_t
    clockid_t CLOCK_MONOTONIC
    clockid_t CLOCK_MONOTONIC_COARSE

    struct clock_time "timespec":
        long tv_sec
        long tv_nsec

    int clock_gettime(clockid_t clock, clock_time* now)
    int nanosleep(const clock_time* length, clock_time* rest)

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* buffer, size_t count)
    ssize_t write(int fd, const void* buffer, size_t count)
    int close(int fd)

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN
    int EWOULDBLOCK
    int EINTR
    int ENOBUFS
    int ENOMEM
    int EMSGSIZE
