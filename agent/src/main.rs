//! t
fn main() {
    env_logger::init();
    match loopwarden::kernel::load(loopwarden_abi::Settings::default()) {
        loopwarden::kernel::Outcome::Loaded(l) => { println!("{:#?} {:?}", l.plan, l.tracefs); }
        loopwarden::kernel::Outcome::Refused(p) => println!("{p:#?}"),
    }
}
