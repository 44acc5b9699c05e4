//! The API over real sockets: routes, errors, streams, terminals, and the document that describes them.

mod document;
mod files;
mod rest;
mod streams;
mod support;
mod terminals;
