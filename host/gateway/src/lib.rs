//! The life of a call, phases 1 to 11, and nothing else.
