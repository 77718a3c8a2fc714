//! Peer: ipc-channel's byte channel.

use anyhow::{Context, Result};
use ipc_channel::TryRecvError;
use ipc_channel::ipc::{self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender};

use super::waiting::poll;
use super::{Patience, Place, Receiver, Sender, Subject};
use crate::work::Work;

#[derive(Debug)]
pub struct IpcChannel;

pub struct In {
    sender: IpcBytesSender,
    buffer: Vec<u8>,
}

pub struct Out {
    end: End,
    patience: Patience,
}

/// The sender creates the channel and hands its receiver over.
enum End {
    Expected(Option<IpcOneShotServer<IpcBytesReceiver>>),
    There(IpcBytesReceiver),
}

impl Subject for IpcChannel {
    type Sender = In;
    type Receiver = Out;

    fn name(&self) -> String {
        "ipc-channel".to_owned()
    }

    fn note(&self) -> &'static str {
        "no ack; one receiver only; holds what a socket holds"
    }

    fn does(&self, work: Work) -> bool {
        matches!(
            work,
            Work::OneWay {
                senders: 1,
                receivers: 1,
                ..
            } | Work::RoundTrip { .. }
        )
    }

    fn receiver(&self, place: &Place, patience: Patience) -> Result<Out> {
        let (server, name) = IpcOneShotServer::new()?;
        std::fs::write(place.file(), name)?;
        Ok(Out {
            end: End::Expected(Some(server)),
            patience,
        })
    }

    fn sender(&self, place: &Place) -> Result<In> {
        let (sender, receiver) = ipc::bytes_channel()?;
        let name = std::fs::read_to_string(place.file())?;
        IpcSender::connect(name)?.send(receiver)?;
        Ok(In {
            sender,
            buffer: vec![0; place.bytes],
        })
    }
}

impl Sender for In {
    fn send(&mut self, count: usize, _: usize, fill: &mut impl FnMut(&mut [u8])) -> Result<()> {
        for _ in 0..count {
            fill(&mut self.buffer);
            self.sender.send(&self.buffer)?;
        }
        Ok(())
    }
}

impl Receiver for Out {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) -> Result<()> {
        let receiver = self.end.receiver()?;
        let message = match self.patience {
            Patience::Block | Patience::Stream => receiver.recv()?,
            Patience::Spin => poll(|| match receiver.try_recv() {
                Ok(message) => Ok(Some(message)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(error) => Err(error.into()),
            })?,
        };
        read(&message);
        Ok(())
    }
}

impl End {
    fn receiver(&mut self) -> Result<&IpcBytesReceiver> {
        if let Self::Expected(server) = self {
            let server = server.take().context("accepting failed before")?;
            *self = Self::There(server.accept()?.1);
        }
        match self {
            Self::There(receiver) => Ok(receiver),
            Self::Expected(_) => unreachable!("it was accepted above"),
        }
    }
}
