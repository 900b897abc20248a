//! Loopwarden agent.
