//! The OpenAPI document: what the routes say of themselves, and what holds for all of them.

use utoipa::openapi::security::{SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Info, ObjectBuilder, OpenApi, RefOr, ResponseBuilder, path::Operation, schema::Type,
};

/// Adds title, security and the error answer to the routes' own descriptions.
pub fn document(mut api: OpenApi) -> OpenApi {
    api.info = Info::builder()
        .title("Cairn Edge Controller")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "Types named cairn_protocol::… are those of the crate cairn-protocol. Tags say who may call: open and \
             node-open need no client certificate, node needs a node's, operator and publish an operator's, \
             repository either.",
        ))
        .build();
    let scheme = SecurityScheme::MutualTls {
        description: Some("A certificate of this controller with a SPIFFE id".to_owned()),
        deprecated: None,
        extensions: None,
    };
    api.components.get_or_insert_default().add_security_scheme("mutualTLS", scheme);
    let paths = std::mem::take(&mut api.paths.paths);
    api.paths.paths = paths
        .into_iter()
        .map(|(path, mut item)| {
            for operation in
                [&mut item.get, &mut item.put, &mut item.post].into_iter().filter_map(Option::as_mut)
            {
                complete(operation);
            }
            // OpenAPI has no word for a parameter that spans several segments.
            (path.replace("{*", "{"), item)
        })
        .collect();
    api
}

fn complete(operation: &mut Operation) {
    let tag = operation.tags.iter().flatten().next().map(String::as_str).unwrap_or_default();
    if !matches!(tag, "open" | "node-open") {
        operation.security = Some(vec![SecurityRequirement::new("mutualTLS", Vec::<String>::new())]);
    }
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let problem = ObjectBuilder::new()
        .property("status", ObjectBuilder::new().schema_type(Type::Integer))
        .property("code", text())
        .property("detail", text())
        .required("status")
        .required("code")
        .required("detail");
    let refused = ResponseBuilder::new()
        .description("A problem (RFC 9457): a stable code, and a line that says what to do")
        .content("application/problem+json", ContentBuilder::new().schema(Some(problem)).build());
    operation.responses.responses.insert("default".to_owned(), RefOr::T(refused.build()));
}
