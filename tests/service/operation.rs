//! Operating: metrics, certificates that change, the proxy listener, shut-down.
