//! What one client can take from the others: nothing. Slow readers, floods, and memory.
