//! AWS-compatible control API, the registry it writes, and the store of one node.

pub mod client;
pub mod controller;
pub mod filter_test;
pub mod http;
pub mod registry;
pub mod sigv4;
pub mod skip;
pub mod store;

/// Generates a key pair: an access key id in AWS's format, and 256 random bits.
pub fn new_key() -> (String, String) {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (mut id, mut secret) = ([0u8; 16], [0u8; 32]);
    // Panic without the operating system's randomness: a weak key would be worse.
    getrandom::fill(&mut id).expect("the operating system gives random bytes");
    getrandom::fill(&mut secret).expect("the operating system gives random bytes");
    let id: String = id.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    (format!("LMAN{id}"), aws_smithy_types::base64::encode(secret))
}
