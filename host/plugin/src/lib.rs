//! The WebAssembly host: load, link, limit, pool, swap, meter.
