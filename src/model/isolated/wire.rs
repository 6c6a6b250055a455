//! The protocol between a server and the process of a model: short messages through a socket, tensors through shared
//! memory.
//!
//! The two sides take turns. A message is its length (four bytes, little-endian) and JSON. The shared memory is an
//! anonymous file (`memfd`). The sender writes its tensors into it, one after the other, and the message has their
//! shapes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use half::slice::HalfFloatSliceExt;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::{Provider, SessionConfig};
use crate::error::{Error, Result, SetupError};
use crate::model::runtime_libraries::RuntimeLibraries;
use crate::tensor::{DType, Data, Element, Signature, Tensor, with_element_type};

/// Maximum length of a message: the shapes of a few hundred tensors, or a settings file.
const MAX_MESSAGE_BYTES: u32 = 1 << 24;

/// Size of the shared memory that is kept between runs, in bytes.
const KEPT_BYTES: u64 = 1 << 22;

/// Message from the server to the process of a model.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The first message: opens a model.
    Open(Box<Open>),
    /// Runs these inputs, in the order of the signature.
    Run {
        /// Number of the run, so that exactly this run can be ended.
        number: u64,
        inputs: Vec<Head>,
    },
}

/// The model to open.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) libraries: RuntimeLibraries,
    pub(super) config: SessionConfig,
    /// Size of the model in the shared memory.
    pub(super) model: usize,
    /// Locations and sizes of the external files, which follow the model in the shared memory.
    pub(super) external: Vec<(String, usize)>,
}

/// Message from the process of a model to the server, in answer to an [`Order`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The model is open.
    Opened { signature: Signature, provider: Provider },
    /// The model ran and returned these outputs, each with its index in the signature.
    Ran(Vec<(usize, Head)>),
    /// The order failed.
    Failed(Failure),
}

/// Kind and text of a failure in the process of a model.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Failure {
    /// The model failed on these inputs.
    Model(String),
    /// The settings are not valid.
    Config(String),
    /// The model cannot be opened.
    Repository(String),
    /// Another error.
    Internal(String),
}

/// Description of a tensor in the shared memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Head {
    dtype: DType,
    shape: Vec<usize>,
    /// Size of the elements in the shared memory, in bytes.
    bytes: usize,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::ModelFailed { detail } => Failure::Model(detail),
            other => Failure::Internal(other.for_operators()),
        }
    }
}

impl From<SetupError> for Failure {
    fn from(error: SetupError) -> Failure {
        match error {
            SetupError::Config(message) => Failure::Config(message),
            SetupError::Repository(message) => Failure::Repository(message),
            SetupError::Run(error) => error.into(),
            other => Failure::Internal(other.to_string()),
        }
    }
}

impl From<Failure> for SetupError {
    fn from(failure: Failure) -> SetupError {
        match failure {
            Failure::Config(message) => SetupError::Config(message),
            Failure::Repository(message) => SetupError::Repository(message),
            Failure::Model(detail) => SetupError::Run(Error::ModelFailed { detail }),
            Failure::Internal(detail) => SetupError::internal(detail),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Model(detail) => Error::ModelFailed { detail },
            Failure::Config(detail) | Failure::Repository(detail) | Failure::Internal(detail) => {
                Error::internal(detail)
            }
        }
    }
}

// ===== messages =====

pub(super) fn send(mut to: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = u32::try_from(bytes.len() - 4).ok().filter(|length| *length <= MAX_MESSAGE_BYTES);
    let length = length.ok_or_else(|| io::Error::other("a message is too long"))?;
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    to.write_all(&bytes)
}

pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_MESSAGE_BYTES {
        return Err(io::Error::other("a message is too long"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// Sends open files to the other side.
pub(super) fn send_files(to: &UnixStream, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::Error::other("too many files at one time"));
    }
    sendmsg(to, &[io::IoSlice::new(&[0])], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

/// Receives the two files that [`send_files`] has sent.
pub(super) fn receive_files(from: &UnixStream) -> io::Result<[OwnedFd; 2]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    #[cfg(target_os = "linux")]
    let flags = RecvFlags::CMSG_CLOEXEC;
    #[cfg(not(target_os = "linux"))]
    let flags = RecvFlags::empty();
    recvmsg(from, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
    let files: Vec<OwnedFd> = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    files.try_into().map_err(|_| io::Error::other("the server's files were not received"))
}

// ===== memory =====

/// Memory that the server and the process of a model share.
#[derive(Debug)]
pub(super) struct SharedMemory(File);

impl SharedMemory {
    pub(super) fn new() -> io::Result<SharedMemory> {
        #[cfg(target_os = "linux")]
        let file = rustix::fs::memfd_create("leeway-tensors", rustix::fs::MemfdFlags::CLOEXEC)?.into();
        // An unlinked file, where anonymous memory is not available.
        #[cfg(not(target_os = "linux"))]
        let file = tempfile::tempfile()?;
        Ok(SharedMemory(file))
    }

    pub(super) fn of(file: OwnedFd) -> SharedMemory {
        SharedMemory(file.into())
    }

    pub(super) fn file(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    pub(super) fn write_bytes(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    pub(super) fn read_bytes(&self, length: usize, at: u64) -> io::Result<Vec<u8>> {
        self.holds(length, at)?;
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Releases the memory after a model was passed through it to the process.
    pub(super) fn release(&self) -> io::Result<()> {
        self.0.set_len(0)
    }

    /// Shrinks the memory to the size that is kept between runs.
    pub(super) fn shrink(&self) -> io::Result<()> {
        self.0.set_len(KEPT_BYTES)
    }

    /// Returns true if these tensors take more memory than is kept between runs.
    pub(super) fn is_large(heads: &[Head]) -> bool {
        heads.iter().map(|head| head.bytes as u64).sum::<u64>() > KEPT_BYTES
    }

    /// Writes tensors one after the other.
    pub(super) fn write<'a>(&self, tensors: impl Iterator<Item = &'a Tensor>) -> io::Result<Vec<Head>> {
        let mut at = 0;
        let mut heads = Vec::new();
        for tensor in tensors {
            let bytes = self.write_data(tensor.data(), at)?;
            at += bytes as u64;
            heads.push(Head { dtype: tensor.dtype(), shape: tensor.shape().to_vec(), bytes });
        }
        Ok(heads)
    }

    /// Reads tensors that were written one after the other.
    pub(super) fn read<'a>(&self, heads: impl Iterator<Item = &'a Head>) -> Result<Vec<Tensor>> {
        let mut at = 0;
        heads
            .map(|head| {
                let data = self.read_data(head, at).map_err(Error::internal)?;
                at += head.bytes as u64;
                Tensor::new(head.shape.clone(), data)
            })
            .collect()
    }

    /// Checks the size before the allocation, so that a wrong size allocates nothing.
    fn holds(&self, length: usize, at: u64) -> io::Result<()> {
        const NOT_WORTH_ASKING: usize = 1 << 20;
        if length <= NOT_WORTH_ASKING || at.saturating_add(length as u64) <= self.0.metadata()?.len() {
            Ok(())
        } else {
            Err(io::Error::other("a tensor is larger than the shared memory"))
        }
    }

    fn write_data(&self, data: &Data, at: u64) -> io::Result<usize> {
        let owned: Vec<u8>;
        let bytes: &[u8] = match data {
            Data::F32(values) => bytemuck::cast_slice(values),
            Data::F64(values) => bytemuck::cast_slice(values),
            Data::F16(values) => bytemuck::cast_slice(values.reinterpret_cast()),
            Data::BF16(values) => bytemuck::cast_slice(values.reinterpret_cast()),
            Data::I8(values) => bytemuck::cast_slice(values),
            Data::I16(values) => bytemuck::cast_slice(values),
            Data::I32(values) => bytemuck::cast_slice(values),
            Data::I64(values) => bytemuck::cast_slice(values),
            Data::U8(values) => values,
            Data::U16(values) => bytemuck::cast_slice(values),
            Data::U32(values) => bytemuck::cast_slice(values),
            Data::U64(values) => bytemuck::cast_slice(values),
            Data::Bool(values) => bytemuck::cast_slice(values),
            Data::Text(values) => {
                owned = encode_texts(values)?;
                &owned
            }
        };
        self.0.write_all_at(bytes, at)?;
        Ok(bytes.len())
    }

    fn read_data(&self, head: &Head, at: u64) -> io::Result<Data> {
        let wrong = || io::Error::other("a tensor's shape and size do not match");
        let elements = head.shape.iter().try_fold(1_usize, |all, dim| all.checked_mul(*dim)).ok_or_else(wrong)?;
        let size = match head.dtype {
            DType::Text => None,
            dtype => Some(with_element_type!(dtype, T => size_of::<T>())),
        };
        if size.is_some_and(|size| elements.checked_mul(size) != Some(head.bytes)) {
            return Err(wrong());
        }
        self.holds(head.bytes, at)?;
        macro_rules! numbers {
            ($type:ty) => {{
                let mut values: Vec<$type> = vec![<$type>::default(); elements];
                self.0.read_exact_at(bytemuck::cast_slice_mut(&mut values), at)?;
                values
            }};
        }
        Ok(match head.dtype {
            DType::F32 => f32::into_data(numbers!(f32)),
            DType::F64 => f64::into_data(numbers!(f64)),
            DType::F16 => {
                let mut values = vec![half::f16::ZERO; elements];
                self.0.read_exact_at(bytemuck::cast_slice_mut(values.reinterpret_cast_mut()), at)?;
                Data::F16(values)
            }
            DType::BF16 => {
                let mut values = vec![half::bf16::ZERO; elements];
                self.0.read_exact_at(bytemuck::cast_slice_mut(values.reinterpret_cast_mut()), at)?;
                Data::BF16(values)
            }
            DType::I8 => Data::I8(numbers!(i8)),
            DType::I16 => Data::I16(numbers!(i16)),
            DType::I32 => Data::I32(numbers!(i32)),
            DType::I64 => Data::I64(numbers!(i64)),
            DType::U8 => Data::U8(numbers!(u8)),
            DType::U16 => Data::U16(numbers!(u16)),
            DType::U32 => Data::U32(numbers!(u32)),
            DType::U64 => Data::U64(numbers!(u64)),
            DType::Bool => Data::Bool(numbers!(u8).into_iter().map(|value| value != 0).collect()),
            DType::Text => Data::Text(decode_texts(&self.read_bytes(head.bytes, at)?, elements)?),
        })
    }
}

/// Encodes texts, each as its length and its bytes.
fn encode_texts(texts: &[String]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(texts.iter().map(|text| 4 + text.len()).sum());
    for text in texts {
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    Ok(bytes)
}

fn decode_texts(mut bytes: &[u8], count: usize) -> io::Result<Vec<String>> {
    let cut_off = || io::Error::other("texts are cut off");
    let mut texts = Vec::new();
    for _ in 0..count {
        let (length, rest) = bytes.split_first_chunk().ok_or_else(cut_off)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (text, rest) = rest.split_at_checked(length).ok_or_else(cut_off)?;
        texts.push(String::from_utf8(text.to_vec()).map_err(io::Error::other)?);
        bytes = rest;
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_of_every_type_come_through_unchanged() {
        let memory = SharedMemory::new().unwrap();
        let texts = ["", "ä\0\n", "long ".repeat(1000).as_str()].map(str::to_owned).to_vec();
        let data = [
            Data::F32(vec![0.1, f32::NAN, f32::INFINITY]),
            Data::F64(vec![0.1, -0.0, f64::MIN_POSITIVE]),
            Data::F16([0.1, 2.0, -3.0].map(half::f16::from_f32).to_vec()),
            Data::BF16([0.1, 2.0, -3.0].map(half::bf16::from_f32).to_vec()),
            Data::I8(vec![-128, 0, 127]),
            Data::I16(vec![i16::MIN, 0, i16::MAX]),
            Data::I32(vec![i32::MIN, 0, i32::MAX]),
            Data::I64(vec![i64::MIN, 0, i64::MAX]),
            Data::U8(vec![0, 1, 255]),
            Data::U16(vec![0, 1, u16::MAX]),
            Data::U32(vec![0, 1, u32::MAX]),
            Data::U64(vec![0, 1, u64::MAX]),
            Data::Bool(vec![true, false, true]),
            Data::Text(texts),
        ];
        let tensors: Vec<Tensor> = data.into_iter().map(|data| Tensor::new(vec![3, 1], data).unwrap()).collect();
        let heads = memory.write(tensors.iter()).unwrap();
        let read = memory.read(heads.iter()).unwrap();
        assert_eq!(format!("{read:?}"), format!("{tensors:?}"));
    }

    #[test]
    fn what_is_only_claimed_is_not_allocated() {
        let memory = SharedMemory::new().unwrap();
        for (dtype, shape, bytes) in [
            (DType::F32, vec![1 << 40], 1 << 42),
            (DType::F32, vec![usize::MAX, 2], 8),
            (DType::F32, vec![2], 4),
            (DType::Text, vec![1], 1 << 40),
            (DType::Text, vec![1 << 40], 0),
        ] {
            let head = Head { dtype, shape, bytes };
            assert!(memory.read([&head].into_iter()).is_err(), "{head:?}");
        }
    }
}
