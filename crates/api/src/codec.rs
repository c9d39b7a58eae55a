//! Encoding and decoding of every generated service: small buffers where there are many callers, and a bound on what
//! a request may grow to in memory.

use std::marker::PhantomData;

use prost::Message;
use prost::bytes::Buf;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::expansion::{self, Shaped};

/// What a call's buffer begins with, in bytes; it grows with its message. gRPC's usual 8 KiB would be taken for
/// each call, most of which ask and answer in a few hundred bytes.
const BUFFER: usize = 256;
/// Messages are sent when this much has been gathered, as usual.
const YIELD_THRESHOLD: usize = 32 << 10;

/// As [`ProstCodec`], but requests are looked at before they are decoded ([`expansion`]). The generated code uses it.
pub(crate) type Bounded<T, U> = Looking<T, U, false>;

/// [`Bounded`] with small buffers. The Workload API's generated code uses it.
pub(crate) type SmallBuffers<T, U> = Looking<T, U, true>;

/// Encodes as prost does, and looks at what it decodes.
#[derive(Debug, Clone)]
pub(crate) struct Looking<T, U, const SMALL: bool>(PhantomData<(T, U)>);

impl<T, U, const SMALL: bool> Default for Looking<T, U, SMALL> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

fn settings(small: bool) -> BufferSettings {
    if small { BufferSettings::new(BUFFER, YIELD_THRESHOLD) } else { BufferSettings::default() }
}

impl<T, U, const SMALL: bool> Codec for Looking<T, U, SMALL>
where
    T: Message + Send + 'static,
    U: Message + Shaped + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = WholeEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        WholeEncoder(ProstCodec::<T, U>::raw_encoder(settings(SMALL)))
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(ProstCodec::<T, U>::raw_decoder(settings(SMALL)))
    }
}

/// Encodes into a buffer that is as large as the message at once: one that grows as it is written copies a large message
/// several times.
#[derive(Debug, Clone)]
pub(crate) struct WholeEncoder<T>(ProstEncoder<T>);

impl<T: Message> Encoder for WholeEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        self.0.encode(item, buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// Refuses requests that would grow too much, and decodes the others.
#[derive(Debug, Clone)]
pub(crate) struct BoundedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Shaped + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if let Some(shape) = U::SHAPE {
            let message = source.chunk();
            // tonic hands over a message whole.
            if message.len() != source.remaining() {
                return Err(Status::internal("a message came in pieces"));
            }
            expansion::check(shape, message)?;
        }
        self.0.decode(source)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}
