//! The answer to a request that asks for an upgrade, and the socket that it may become.

use super::connection::{Connection, Socket};
use crate::admittance::Admittance;
use crate::socket::Upgrade;
use actix_codec::{Encoder, Framed};
use actix_http::body::{BodySize, MessageBody};
use actix_http::h1::{Codec, Message};
use actix_http::{ConnectionType, Error, Request, Response};
use actix_service::{Service, ServiceFactory};
use actix_web::dev::ServiceResponse;
use bytes::BytesMut;
use futures_util::future::LocalBoxFuture;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::AsyncWriteExt;

/// Answers requests that ask for an upgrade by the same routes as all others. What becomes a socket
/// leaves HTTP's dispatcher behind, with its buffers: [`Upgrade`] owns the connection from then on.
pub struct Upgrader<F> {
    app: F,
    admittance: Admittance,
}

impl<F> Upgrader<F> {
    /// By the routes of `app`, for newcomers that wait for their turn at `admittance`.
    pub fn new(app: F, admittance: Admittance) -> Self {
        Self { app, admittance }
    }
}

impl<F, B> ServiceFactory<(Request, Framed<Connection, Codec>)> for Upgrader<F>
where
    F: ServiceFactory<
            Request,
            Config = (),
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
        >,
    F::Future: 'static,
    F::Service: 'static,
    B: MessageBody + 'static,
{
    type Response = ();
    type Error = Error;
    type Config = ();
    type Service = UpgraderService<F::Service>;
    type InitError = F::InitError;
    type Future = LocalBoxFuture<'static, Result<Self::Service, Self::InitError>>;

    fn new_service(&self, _: ()) -> Self::Future {
        let (app, admittance) = (self.app.new_service(()), self.admittance.clone());
        Box::pin(async move { Ok(UpgraderService { app: Rc::new(app.await?), admittance }) })
    }
}

/// A worker's upgrader.
pub struct UpgraderService<S> {
    app: Rc<S>,
    admittance: Admittance,
}

impl<S, B> Service<(Request, Framed<Connection, Codec>)> for UpgraderService<S>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = actix_web::Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ();
    type Error = Error;
    type Future = LocalBoxFuture<'static, Result<(), Error>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // An application of actix-web's is always ready.
        self.app.poll_ready(cx).map(|_| Ok(()))
    }

    fn call(&self, (request, framed): (Request, Framed<Connection, Codec>)) -> Self::Future {
        let (app, admittance) = (self.app.clone(), self.admittance.clone());
        Box::pin(async move {
            let response = ask(&*app, request, &admittance).await;
            let upgrading = match response {
                Ok(answer) => answer_with(answer.into(), framed).await,
                Err(error) => answer_with(Response::from(error), framed).await,
            };
            // Who is gone before it has its answer is no failure of ours.
            upgrading
                .unwrap_or_else(|error| tracing::debug!(%error, "an upgrade was not answered"));
            Ok(())
        })
    }
}

/// The application's answer. Its first step, which verifies the token and registers the newcomer,
/// waits for its turn.
async fn ask<S: Service<Request>>(
    app: &S,
    request: Request,
    admittance: &Admittance,
) -> Result<S::Response, S::Error> {
    let mut answer = pin!(app.call(request));
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    match admittance.in_turn(|| answer.as_mut().poll(&mut Context::from_waker(&waker))).await {
        Poll::Ready(answer) => answer,
        Poll::Pending => answer.await,
    }
}

async fn answer_with<B: MessageBody>(
    mut response: Response<B>,
    framed: Framed<Connection, Codec>,
) -> io::Result<()> {
    let upgrade = response.extensions_mut().remove::<Upgrade>();
    if upgrade.is_none() {
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    let parts = framed.into_parts();
    let (connection, mut codec, mut bytes) = (parts.io, parts.codec, parts.write_buf);
    let (head, body) = response.into_parts();
    codec.encode(Message::Item((head, body.size())), &mut bytes)?;
    match upgrade {
        Some(upgrade) => {
            let (place, mut paced, afterwards) = connection.into_parts();
            place.occupancy().stay();
            paced.write_all(&bytes).await?;
            let ((wire, ahead), mut read) = (paced.into_wire(), parts.read_buf);
            read.extend_from_slice(&ahead);
            afterwards.set(Some(Socket { life: upgrade.run(wire, read), place }));
            Ok(())
        }
        None => refuse(connection, codec, bytes, body).await,
    }
}

/// Writes an answer that upgrades nothing, of which `bytes` is the head, and ends the connection.
async fn refuse<B: MessageBody>(
    mut connection: Connection,
    mut codec: Codec,
    mut bytes: BytesMut,
    body: B,
) -> io::Result<()> {
    let mut body = pin!(body);
    if !matches!(body.size(), BodySize::None) {
        while let Some(Ok(chunk)) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
            codec.encode(Message::Chunk(Some(chunk)), &mut bytes)?;
            connection.write_all(&bytes).await?;
            bytes.clear();
        }
        codec.encode(Message::Chunk(None), &mut bytes)?;
    }
    connection.write_all(&bytes).await?;
    connection.shutdown().await?;
    let (_place, paced, _) = connection.into_parts();
    let (mut wire, _) = paced.into_wire();
    wire.linger().await;
    Ok(())
}
