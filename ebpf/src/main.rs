//! Loopwarden's kernel half: programs that record what the loop threads of watched processes do.
//!
//! One file a subject. The bodies (`poll`, `wait`, `lifecycle`, `signal`, `connection`, `engine`) know nothing of how they are attached; `hooks`
//! holds the shells, one for each way a kernel offers. Nothing here decides: it records times and reports rare events.
//! Threads that are not watched leave after one hash lookup.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod connection;
mod engine;
mod hooks;
mod kernel;
mod lifecycle;
mod maps;
mod poll;
mod registers;
mod signal;
mod wait;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
