//! One real call through the whole house.

mod bad_input;
mod whole_house;
