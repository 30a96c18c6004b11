//! Write a Portcullis plugin: traits, macros, and the test harness.
