/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into QEMU: a KVM that refuses the system registers of a gvCPU that
 * has run, and takes those of one that was reset. CPC_TEST_REFUSED is a file
 * that gets a byte when it did, opened while QEMU may still open it. hvCPUs get theirs by
 * another call.
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

static int refused = -1;

__attribute__((constructor)) static void open_refused(void)
{
    refused = open(getenv("CPC_TEST_REFUSED"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list more;
    void *argument;

    va_start(more, request);
    argument = va_arg(more, void *);
    va_end(more);
    if (request == KVM_SET_SREGS2 && ((struct kvm_sregs2 *)argument)->cr0 & CR0_PG) {
        errno = write(refused, "x", 1) == 1 ? EINVAL : EIO;
        return -1;
    }
    return (int)syscall(SYS_ioctl, fd, request, argument);
}
