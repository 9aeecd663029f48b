//! How a static binary looks up names.
//!
//! glibc reads `/etc/nsswitch.conf` and loads a library for each service in it that it does not hold itself. A static
//! binary holds `files` and `dns`; injected into a stranger's image it would load the other ones from there, made for
//! another glibc, and may crash. So it is told to use what it holds, whatever the image says: `/etc/hosts`, then the
//! servers in `/etc/resolv.conf`.

/// First of all: before any thread, and before the first lookup.
pub fn settle() {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
    for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")] {
        // SAFETY: both are C strings that live for ever, and no other thread runs yet. It can only fail for want of memory
        // or for words that it does not know; then the image's own settings count.
        unsafe { glibc::__nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu", target_feature = "crt-static"))]
mod glibc {
    use std::ffi::{c_char, c_int};

    unsafe extern "C" {
        /// In nss.h; a part of glibc's interface since 2.2.5.
        pub fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }
}
