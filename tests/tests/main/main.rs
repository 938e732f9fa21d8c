//! One binary for all tests of the whole, so that it is linked once.

mod circles;
mod codes;
mod configs;
mod contributing;
mod data;
mod docs;
mod doors;
mod durability;
mod faults;
mod fencing;
mod first_hour;
mod first_hour_ctl;
mod first_hour_data;
mod first_hour_start;
mod foreign;
mod formats;
mod house;
mod interrupted;
mod jobs;
mod page;
mod refusals;
mod runs;
mod together;
