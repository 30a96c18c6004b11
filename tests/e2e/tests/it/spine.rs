//! One real call through the whole house.

mod bad_input;
mod hidden;
mod signed_tokens;
mod whole_house;
