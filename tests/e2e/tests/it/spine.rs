//! One real call through the whole house.

mod bad_input;
mod bridged;
mod contract;
mod doctor;
mod hidden;
mod inspector;
mod metrics;
mod rotated;
mod runners;
mod signed_tokens;
mod whole_house;
