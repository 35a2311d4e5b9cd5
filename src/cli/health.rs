//! `forgetd health`: what a container's health check runs.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::app::{AppError, config::Config, tls::connector};

use super::CliError;

const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn run(config: &Config) -> Result<ExitCode, CliError> {
    let address = reachable(config.http.listen);
    let connector = config.http.tls.as_ref().map(connector).transpose().map_err(AppError::Tls)?;
    let status = match timeout(PATIENCE, ask(address, connector)).await {
        Ok(status) => status,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match status {
        Ok(line) if line.contains(" 200 ") => {
            println!("ready");
            Ok(ExitCode::SUCCESS)
        }
        Ok(line) => {
            println!("not ready: {line}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            println!("not reachable at {address}: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// A server that listens everywhere is asked on loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn ask(address: SocketAddr, tls: Option<TlsConnector>) -> io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    match tls {
        Some(tls) => {
            let name = ServerName::IpAddress(address.ip().into());
            converse(tls.connect(name, stream).await?, address).await
        }
        None => converse(stream, address).await,
    }
}

async fn converse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    address: SocketAddr,
) -> io::Result<String> {
    let request =
        format!("GET /v2/health/ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
