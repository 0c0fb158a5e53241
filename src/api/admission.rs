//! Token, principal, instance, role: who may call, as extractors that a handler names in its
//! signature.

use super::Api;
use super::body::{RequestBody, has_body, read_json};
use super::credentials::Credentials;
use super::error::{Code, Outcome, Problem};
use super::middleware::RequestedInstance;
use super::publish_rights::PublishRights;
use crate::auth::AuthError;
use crate::catalog::Tenant;
use crate::domain::instance::InstanceId;
use crate::domain::message::Author;
use crate::domain::principal::{Principal, Role};
use crate::relay::Close;
use crate::socket::{Renewal, Renewer};
use actix_web::dev::Payload;
use actix_web::http::header::ORIGIN;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage, HttpRequest};
use futures_util::future::LocalBoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// When to try again while signing keys cannot be fetched.
const KEYS_RETRY: Duration = Duration::from_secs(5);

/// Why a token may not publish although it may connect.
pub const NO_PUBLISHER: &str =
    "publishing needs a token with a component claim, or one of the instance's publishRoles";

/// A check of who calls, made before anything else of the request is looked at.
pub trait Admission: Sized + 'static {
    /// Lets the caller in. Errors: 400, 401, 403, 404 and 503 in the order of the contract.
    fn admit(request: &HttpRequest, api: &Api) -> impl Future<Output = Outcome<Self>>;

    /// The instance that the caller was let into; none where no instance is looked at.
    fn instance(&self) -> Option<&InstanceId> {
        None
    }
}

/// `REALTIME_ADMIN` in the named instance.
pub struct Admin {
    /// Who calls.
    pub principal: Arc<Principal>,
    /// The instance.
    pub tenant: Arc<Tenant>,
}

/// `REALTIME_ADMIN` or `REALTIME_CONNECT` in the named instance.
pub struct Member {
    /// The instance.
    pub tenant: Arc<Tenant>,
}

/// May learn about others in the named instance: `REALTIME_ADMIN`, or a component with
/// `REALTIME_CONNECT`.
pub struct Observer {
    /// The instance.
    pub tenant: Arc<Tenant>,
}

/// `REALTIME_OPERATOR`, valid everywhere; no instance is looked at.
pub struct Operator {
    /// Who calls.
    pub principal: Arc<Principal>,
}

/// An administrator of the named instance, or an operator: of the named instance, or of all.
pub struct Overseer {
    /// The instance; none means all.
    pub tenant: Option<Arc<Tenant>>,
}

impl Overseer {
    /// The instance to look at; none means all.
    pub fn instance(&self) -> Option<&InstanceId> {
        self.tenant.as_ref().map(|tenant| &tenant.instance.id)
    }
}

/// May publish in the named instance. The handler spends the rate limit.
#[derive(Clone)]
pub struct Publisher {
    /// Who calls.
    pub principal: Arc<Principal>,
    /// The same, as it is remembered of every message of the request.
    pub author: Arc<Author>,
    /// The instance.
    pub tenant: Arc<Tenant>,
    /// Which channels it may publish to, as far as they were asked.
    pub rights: PublishRights,
}

/// May connect to the named instance.
pub struct Subscriber {
    /// Who connects.
    pub principal: Arc<Principal>,
    /// The instance.
    pub tenant: Arc<Tenant>,
}

/// An admission and then the body, read only once the caller is let in.
pub struct WithBody<A, T> {
    /// Who calls.
    pub admission: A,
    /// What was sent.
    pub body: T,
}

impl Admission for Admin {
    async fn admit(request: &HttpRequest, api: &Api) -> Outcome<Self> {
        let (principal, tenant) = sign_in(request, api).await?;
        need(&principal, &[Role::ADMIN])?;
        Ok(Self { principal, tenant })
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.tenant.instance.id)
    }
}

impl Admission for Member {
    async fn admit(request: &HttpRequest, api: &Api) -> Outcome<Self> {
        let (principal, tenant) = sign_in(request, api).await?;
        need(&principal, &[Role::ADMIN, Role::CONNECT])?;
        Ok(Self { tenant })
    }
}

impl Admission for Operator {
    async fn admit(request: &HttpRequest, api: &Api) -> Outcome<Self> {
        let principal = verify(&Credentials::read(request)?, api).await?;
        need_operator(&principal)?;
        Ok(Self { principal })
    }
}

impl Admission for Overseer {
    async fn admit(request: &HttpRequest, api: &Api) -> Outcome<Self> {
        let credentials = Credentials::read(request)?;
        if credentials.instance.is_none() {
            need_operator(&*verify(&credentials, api).await?)?;
            return Ok(Self { tenant: None });
        }
        let (principal, tenant) = sign_in_with(&credentials, request, api).await?;
        if need_operator(&principal).is_err() {
            need(&principal, &[Role::ADMIN])?;
        }
        Ok(Self { tenant: Some(tenant) })
    }
}

impl Admission for Publisher {
    async fn admit(request: &HttpRequest, api: &Api) -> Outcome<Self> {
        let (principal, tenant) = sign_in(request, api).await?;
        need(&principal, &[Role::CONNECT])?;
        if !principal.may_publish(&tenant.instance.publish_roles) {
            return Err(Problem::new(Code::PublishDenied, NO_PUBLISHER));
        }
        let author = Author::new(principal.user.clone(), principal.component.as_deref());
        let author = Arc::new(author);
        Ok(Self { principal, author, tenant, rights: PublishRights::default() })
    }

    fn instance(&self) -> Option<&InstanceId> {
        Some(&self.tenant.instance.id)
    }
}

impl Admission for Subscriber {
    async fn admit(request: &HttpRequest, api: &Api) -> Outcome<Self> {
        let (principal, tenant) =
            sign_in_with(&Credentials::read_handshake(request)?, request, api).await?;
        need(&principal, &[Role::CONNECT])?;
        Ok(Self { principal, tenant })
    }
}

impl Admission for Observer {
    async fn admit(request: &HttpRequest, api: &Api) -> Outcome<Self> {
        let (principal, tenant) = sign_in(request, api).await?;
        need(&principal, &[Role::ADMIN, Role::CONNECT])?;
        match principal.may_see_others() {
            true => Ok(Self { tenant }),
            false => Err(Problem::new(
                Code::RoleRequired,
                "this needs a component token or REALTIME_ADMIN",
            )),
        }
    }
}

/// Makes extractors of admissions.
macro_rules! extractors {
    ($($name:ident)*) => {$(
        impl FromRequest for $name {
            type Error = Problem;
            type Future = LocalBoxFuture<'static, Outcome<Self>>;

            fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
                let request = request.clone();
                Box::pin(async move { Self::admit(&request, state(&request)?).await })
            }
        }
    )*};
}

extractors! { Admin Member Observer Operator Overseer }

impl<A: Admission, T: RequestBody> FromRequest for WithBody<A, T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Outcome<Self>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let api = state(&request)?;
            let admission = A::admit(&request, api).await?;
            let body = match T::absent().filter(|_| !has_body(&request)) {
                Some(body) => body,
                None => read_json(&request, payload, api, admission.instance()).await?,
            };
            Ok(Self { admission, body })
        })
    }
}

fn state(request: &HttpRequest) -> Outcome<&Api> {
    let state = request.app_data::<Data<Api>>().map(|api| &***api);
    state.ok_or_else(|| Problem::new(Code::Internal, "this listener has no service"))
}

async fn sign_in(request: &HttpRequest, api: &Api) -> Outcome<(Arc<Principal>, Arc<Tenant>)> {
    sign_in_with(&Credentials::read(request)?, request, api).await
}

/// The token, then the instance and whether it has revoked the token, then the origin.
async fn sign_in_with(
    credentials: &Credentials<'_>,
    request: &HttpRequest,
    api: &Api,
) -> Outcome<(Arc<Principal>, Arc<Tenant>)> {
    let named = credentials.instance.as_deref();
    let origin = request.headers().get(ORIGIN).map(|origin| origin.to_str().unwrap_or("null"));
    if let (Some(_), Some(Ok(id))) = (origin, named.map(InstanceId::new)) {
        request.extensions_mut().insert(RequestedInstance(id));
    }
    let principal = verify(credentials, api).await?;
    let Some(named) = named else {
        let detail = "name the instance in the header or the query parameter `instance`";
        return Err(Problem::new(Code::InstanceRequired, detail));
    };
    let tenant = enter(api, &principal, named)?;
    if tenant.revokes(&principal) {
        return Err(Problem::new(
            Code::TokenRevoked,
            "the token was revoked in this instance; sign in again",
        ));
    }
    if !tenant.instance.allows_origin(origin) {
        return Err(Problem::new(Code::OriginForbidden, "the instance does not allow this Origin"));
    }
    Ok((principal, tenant))
}

async fn verify(credentials: &Credentials<'_>, api: &Api) -> Outcome<Arc<Principal>> {
    let Some(token) = &credentials.token else {
        let detail = "send a token in the header or the query parameter `authorization`";
        return Err(Problem::new(Code::TokenMissing, detail));
    };
    verify_token(token, api).await
}

async fn verify_token(token: &str, api: &Api) -> Outcome<Arc<Principal>> {
    api.authenticator.verify(token).await.map_err(|error| match error {
        AuthError::Invalid(_) => Problem::new(Code::TokenInvalid, error.to_string()),
        AuthError::Expired => Problem::new(Code::TokenExpired, error.to_string()),
        AuthError::KeysUnavailable => {
            Problem::new(Code::Overloaded, error.to_string()).with_retry_after(KEYS_RETRY)
        }
    })
}

/// Whether there is such an instance is told only to a token that is valid everywhere.
fn enter(api: &Api, principal: &Principal, named: &str) -> Outcome<Arc<Tenant>> {
    let forbidden =
        || Problem::new(Code::InstanceForbidden, "the token is not valid in this instance");
    let tenant = api.catalog.tenant_named(named);
    match tenant {
        None if principal.is_valid_everywhere() => {
            Err(Problem::new(Code::InstanceNotFound, "there is no such instance"))
        }
        None => Err(forbidden()),
        Some(tenant) if !principal.is_valid_in(&tenant.instance.id) => Err(forbidden()),
        Some(tenant) if !tenant.instance.enabled => {
            Err(Problem::new(Code::InstanceDisabled, "an operator has disabled the instance"))
        }
        Some(tenant) => Ok(tenant),
    }
}

impl Renewer for Api {
    fn renew(
        &self,
        current: Arc<Principal>,
        instance: InstanceId,
        token: String,
    ) -> LocalBoxFuture<'static, Renewal> {
        let api = self.clone();
        Box::pin(async move {
            let principal = match verify_token(&token, &api).await {
                Ok(principal) => principal,
                Err(problem) => {
                    return Renewal::Refused {
                        code: problem.code.as_str(),
                        detail: problem.detail,
                    };
                }
            };
            if principal.user != current.user || !principal.is_valid_in(&instance) {
                let detail = "the token is another user's, or not valid in this instance".into();
                return Renewal::Refused { code: "AUTH_MISMATCH", detail };
            }
            if api.catalog.tenant(&instance).is_some_and(|tenant| tenant.revokes(&principal)) {
                let detail = "an administrator revoked the token".into();
                return Renewal::Refused { code: Code::TokenRevoked.as_str(), detail };
            }
            match need(&principal, &[Role::CONNECT]) {
                Ok(()) => Renewal::Accepted(principal),
                Err(problem) => {
                    Renewal::Ended(Close::new(4403, problem.code.as_str(), &problem.detail))
                }
            }
        })
    }
}

fn need(principal: &Principal, roles: &[&str]) -> Outcome<()> {
    if roles.iter().any(|role| principal.has_role(role)) {
        return Ok(());
    }
    Err(Problem::new(
        Code::RoleRequired,
        format!("the token lacks the role {}", roles.join(" or ")),
    ))
}

fn need_operator(principal: &Principal) -> Outcome<()> {
    need(principal, &[Role::OPERATOR])?;
    if !principal.is_valid_everywhere() {
        let detail = "REALTIME_OPERATOR counts only in a token that is valid in instance \"*\"";
        return Err(Problem::new(Code::RoleRequired, detail));
    }
    Ok(())
}
