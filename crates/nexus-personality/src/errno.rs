//! Error numbers as a system call returns them.

use std::io;

/// A Linux error number, above zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// What a system call gives: a value, or an error number.
pub type SysResult = Result<u64, Errno>;

macro_rules! names {
    ($($name:ident)*) => { $(
        #[allow(missing_docs)]
        pub const $name: Errno = Errno(libc::$name);
    )* };
}
names! {
    EPERM ENOENT ESRCH EINTR EIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST ENOTDIR EISDIR EINVAL
    ENFILE EMFILE ENOTTY EFBIG ENOSPC ESPIPE EROFS EPIPE ERANGE ENAMETOOLONG ENOSYS ENOTEMPTY ELOOP
    EOVERFLOW ENOTSUP EAFNOSUPPORT ETIMEDOUT ENODEV EXDEV ENOTSOCK ENXIO ENOTCONN EISCONN EADDRINUSE
    EADDRNOTAVAIL ECONNREFUSED ENETUNREACH EPROTONOSUPPORT EPROTOTYPE EDESTADDRREQ EMSGSIZE ENOPROTOOPT EOPNOTSUPP
    ETOOMANYREFS EINPROGRESS ENOLCK EALREADY ENETDOWN ECONNRESET ENOBUFS ESOCKTNOSUPPORT
}

impl From<io::Error> for Errno {
    fn from(error: io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// The last host call's result as ours.
///
/// # Errors
/// The host's error number where `value` is negative.
pub fn check(value: i64) -> SysResult {
    if value < 0 {
        Err(io::Error::last_os_error().into())
    } else {
        Ok(value.cast_unsigned())
    }
}
