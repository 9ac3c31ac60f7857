/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into QEMU: a KVM that refuses the system registers of a gvCPU that
 * has run, and takes those of one that was reset. CPC_TEST_REFUSED is a file
 * that it makes when it did. hvCPUs get theirs by another call.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CR0_PG (1ull << 31)

int ioctl(int fd, unsigned long request, ...)
{
    va_list more;
    void *argument;

    va_start(more, request);
    argument = va_arg(more, void *);
    va_end(more);
    if (request == KVM_SET_SREGS2 && ((struct kvm_sregs2 *)argument)->cr0 & CR0_PG) {
        close(open(getenv("CPC_TEST_REFUSED"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_ioctl, fd, request, argument);
}
