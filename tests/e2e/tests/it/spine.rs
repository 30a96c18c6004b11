//! One real call through the whole house.

mod bad_input;
mod signed_tokens;
mod whole_house;
