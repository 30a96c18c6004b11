//! Versioned records with watch: compare-and-swap, ordered scan, durable before the answer.
