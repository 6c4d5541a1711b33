//! Error answers.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cairn_bundle::durable::FileError;
use cairn_protocol::api::Problem;
use cairn_protocol::limits::clean_text;

use crate::store::StoreError;

/// Media type of problem details (RFC 9457).
pub const CONTENT_TYPE: &str = "application/problem+json";

/// A request that is answered with a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub Problem);

impl Failure {
    /// A problem with a stable `code` and one line for people.
    pub fn new(status: StatusCode, code: &str, detail: impl AsRef<str>) -> Self {
        Self(Problem { status: status.as_u16(), code: code.to_owned(), detail: clean_text(detail.as_ref()) })
    }

    /// 400: the request itself is wrong.
    pub fn bad(code: &str, detail: impl AsRef<str>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 403.
    pub fn forbidden(code: &str, detail: impl AsRef<str>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, detail)
    }

    /// 404.
    pub fn missing(code: &str, detail: impl AsRef<str>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 409: the request is at odds with what is there.
    pub fn conflict(code: &str, detail: impl AsRef<str>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 422: well formed, and not acceptable.
    pub fn unacceptable(code: &str, detail: impl AsRef<str>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 500; the cause goes to the log alone.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %cause, "a request failed here");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "controller-failed",
            "the controller failed to do this; its log says why; nothing was changed, try again",
        )
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::Closed) {
            return Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "the controller is stopping; nothing was changed, try again",
            );
        }
        Self::internal(&error)
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        Self::internal(&error)
    }
}

impl From<crate::pki::PkiError> for Failure {
    fn from(error: crate::pki::PkiError) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        response
    }
}
