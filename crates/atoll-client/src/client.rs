//! Requests and answers.
//!
//! How it works: one pooled HTTP client; a call names its deadline, and its answer is read up to a cap.
//!
//! Deliberately absent: routes (one file per resource).

use std::sync::Arc;
use std::time::Duration;

use atoll_api::{API_KEY, PREFIX, Problem};
use futures_util::StreamExt as _;
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::endpoint::{Endpoint, Socket};
use crate::{ApiKey, ClientError};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Deadline of what asks for no work.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// Most bytes of an answer that is JSON: two streams of 16 MiB, as base64 or escaped.
const ANSWER_CAP: usize = 256 << 20;
const PROBLEM_CAP: usize = 64 << 10;

/// A client of one Atoll. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: Option<ApiKey>,
    /// Address or socket, for people.
    name: Arc<str>,
    _socket: Option<Arc<Socket>>,
}

impl Client {
    /// A client; a data directory's socket is tried at once, an address with the first call.
    ///
    /// # Errors
    /// No Atoll on the data directory, an address that is none.
    pub fn new(endpoint: &Endpoint) -> Result<Self, ClientError> {
        // The first one that is installed counts; another is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder =
            reqwest::Client::builder().connect_timeout(CONNECT_LIMIT).redirect(reqwest::redirect::Policy::none());
        let setup = |error: reqwest::Error| ClientError::Setup(Box::new(error));
        match endpoint {
            Endpoint::Http { url, key } => {
                let bad = || ClientError::BadUrl { url: url.chars().take(200).collect() };
                let base = Url::parse(url).map_err(|_| bad())?;
                if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
                    return Err(bad());
                }
                let name = url.trim_end_matches('/').into();
                Ok(Self { http: builder.build().map_err(setup)?, base, key: key.clone(), name, _socket: None })
            }
            Endpoint::Data(data) => {
                let socket = Socket::find(data)?;
                let http = builder.unix_socket(socket.path.clone()).no_proxy().build().map_err(setup)?;
                let base = Url::parse("http://localhost").map_err(|error| ClientError::Setup(Box::new(error)))?;
                let name = format!("the Atoll on {}", data.display()).into();
                Ok(Self { http, base, key: None, name, _socket: Some(Arc::new(socket)) })
            }
        }
    }

    /// Address or data directory, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address of a path at the root.
    pub(crate) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// A request below `/v1`.
    pub(crate) fn request(&self, method: Method, segments: &[&str], limit: Duration) -> RequestBuilder {
        let mut all = vec![PREFIX.trim_start_matches('/')];
        all.extend_from_slice(segments);
        self.at(method, self.url(&all), limit)
    }

    pub(crate) fn at(&self, method: Method, url: Url, limit: Duration) -> RequestBuilder {
        let request = self.http.request(method, url).timeout(limit);
        match self.key.as_ref().and_then(|key| HeaderValue::from_str(key.expose()).ok()) {
            Some(mut value) => {
                value.set_sensitive(true);
                request.header(API_KEY, value)
            }
            None => request,
        }
    }

    /// Sends; an error status becomes the problem that it came with.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response = request.send().await.map_err(|error| self.why(error))?;
        let status = response.status();
        if status.is_success() || status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let body = self.read(response, PROBLEM_CAP).await?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
            Err(_) => Err(ClientError::Foreign { server: self.name.to_string(), status: status.as_u16() }),
        }
    }

    /// Sends and reads a JSON answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        self.parse(response).await
    }

    pub(crate) async fn parse<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let status = response.status().as_u16();
        let body = self.read(response, ANSWER_CAP).await?;
        serde_json::from_slice(&body).map_err(|_| ClientError::Foreign { server: self.name.to_string(), status })
    }

    /// An answer that is no JSON.
    pub(crate) async fn bytes(&self, response: Response) -> Result<Vec<u8>, ClientError> {
        self.read(response, ANSWER_CAP).await
    }

    /// POSTs a JSON body and reads a JSON answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        segments: &[&str],
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, ClientError> {
        self.json(self.request(Method::POST, segments, limit).json(body)).await
    }

    async fn read(&self, response: Response, limit: usize) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| self.why(error))?;
            if body.len() + chunk.len() > limit {
                return Err(ClientError::TooLarge { limit });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// What a failed exchange means.
    pub(crate) fn why(&self, error: reqwest::Error) -> ClientError {
        let server = self.name.to_string();
        // The address is in the name already, and may hold what the user does not want to see again.
        let error = error.without_url();
        if error.is_connect() {
            ClientError::Unreachable { server, source: Box::new(error) }
        } else if error.is_timeout() {
            ClientError::NoAnswer { server }
        } else {
            ClientError::Lost { server, source: Box::new(error) }
        }
    }
}
