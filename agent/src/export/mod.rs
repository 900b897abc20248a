//! What the agent tells the world.

pub mod lines;
