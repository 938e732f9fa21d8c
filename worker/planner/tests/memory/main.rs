//! Bytes of a plan, held against what is worked out by hand.

mod attention;
mod families;
mod fixture;
