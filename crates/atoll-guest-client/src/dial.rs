//! How a connection to the agent comes about: the caller's business.
//!
//! How it works: a trait of one method that gives a fresh byte stream; the client sets the deadline.
//!
//! Deliberately absent: addresses: nothing here knows how a guest is reached.

use std::{future::Future, io, pin::Pin, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};

/// A connected byte stream to one port of a guest.
pub trait GuestIo: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> GuestIo for T {}

/// A connected byte stream, whatever carries it.
pub type GuestStream = Box<dyn GuestIo>;

/// What [`Dial::dial`] gives.
pub type DialFuture<'a> = Pin<Box<dyn Future<Output = io::Result<GuestStream>> + Send + 'a>>;

/// Opens a fresh connection to the agent of one sandbox.
///
/// The client bounds the time that this may take ([`crate::Limits::dial`]); an
/// implementation must be safe to drop at any await.
pub trait Dial: Send + Sync {
    /// Connects once.
    fn dial(&self) -> DialFuture<'_>;
}

struct DialFn<F>(F);

impl<F, Fut> Dial for DialFn<F>
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = io::Result<GuestStream>> + Send + 'static,
{
    fn dial(&self) -> DialFuture<'_> {
        Box::pin((self.0)())
    }
}

/// Makes a dialler of an async closure.
pub fn dial_fn<F, Fut>(dial: F) -> Arc<dyn Dial>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = io::Result<GuestStream>> + Send + 'static,
{
    Arc::new(DialFn(dial))
}
