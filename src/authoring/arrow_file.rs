//! Arrow files (Feather) and streams, read one record batch at a time.
//!
//! A stream is a schema and messages with dictionaries and record batches; a file also has a footer with their positions.
//! Messages and buffers are compared with the length of the file before memory is allocated for them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::Buffer;
use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::{Message, root_as_footer, root_as_message};
use arrow_schema::{Schema, SchemaRef};

use super::columns::{ColumnToRead, HeaderColumn};
use super::record_batches::{self, guarded, projection};
use super::row::CellRows;
use crate::error::{Result, SetupError};

/// Beginning and end of a file.
const MAGIC: &[u8] = b"ARROW1";
/// Marks the beginning of a message.
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Maximum number of bytes of a record batch after decompression.
const MAX_BATCH_BYTES: u64 = 4 << 30;

/// The messages of a file or a stream.
struct Messages {
    file: BufReader<File>,
    length: u64,
    /// Number of bytes after the position in the file.
    left: u64,
    /// Positions of the messages that were not read yet, dictionaries first. `None` in a stream, where messages follow
    /// each other.
    positions: Option<std::vec::IntoIter<u64>>,
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
}

/// Reads the names and types of the columns.
pub(super) fn header(file: &Path) -> Result<Vec<HeaderColumn>, SetupError> {
    Ok(record_batches::header(&open(file)?.schema))
}

/// Reads the cells of these columns, row by row.
pub(super) fn rows(file: &Path, columns: &[ColumnToRead]) -> Result<CellRows, SetupError> {
    let mut messages = open(file)?;
    let wanted = projection(columns);
    Ok(record_batches::rows(file, columns, move || messages.next_batch(&wanted)))
}

fn open(path: &Path) -> Result<Messages, SetupError> {
    guarded(|| Messages::open(path)).map_err(|problem| {
        SetupError::Repository(format!("{}: the Arrow file cannot be read: {problem}", path.display()))
    })
}

impl Messages {
    fn open(path: &Path) -> Result<Messages, String> {
        let file = BufReader::new(File::open(path).map_err(|error| error.to_string())?);
        let length = file.get_ref().metadata().map_err(|error| error.to_string())?.len();
        let (schema, dictionaries) = (Arc::new(Schema::empty()), HashMap::new());
        let mut messages = Messages { file, length, left: length, positions: None, schema, dictionaries };
        let is_file = messages.bytes(MAGIC.len() as u64)? == MAGIC;
        let metadata = if is_file { messages.footer()? } else { messages.first_message()? };
        let schema = if is_file {
            let footer = root_as_footer(&metadata).map_err(|error| error.to_string())?;
            let blocks = footer.dictionaries().into_iter().chain(footer.recordBatches()).flatten();
            let positions: Result<Vec<u64>, _> = blocks.map(|block| block.offset().try_into()).collect();
            messages.positions = Some(positions.map_err(|_| "a message is outside of the file")?.into_iter());
            footer.schema()
        } else {
            message(&metadata)?.header_as_schema()
        };
        let schema = try_fb_to_schema(schema.ok_or("it has no schema")?).map_err(|error| error.to_string())?;
        messages.schema = Arc::new(schema);
        Ok(messages)
    }

    /// Reads the footer of a file, which is followed by its length and the mark.
    fn footer(&mut self) -> Result<Vec<u8>, String> {
        const AFTER: u64 = 4 + MAGIC.len() as u64;
        let end = self.length.checked_sub(AFTER).ok_or("it is cut off")?;
        self.go_to(end)?;
        let length = u64::from(u32::from_le_bytes(self.word()?));
        if self.bytes(MAGIC.len() as u64)? != MAGIC {
            return Err("its end is missing".to_owned());
        }
        self.go_to(end.checked_sub(length).ok_or("the footer is longer than the file")?)?;
        self.bytes(length)
    }

    fn first_message(&mut self) -> Result<Vec<u8>, String> {
        self.go_to(0)?;
        self.next_message()?.ok_or_else(|| "it has no schema".to_owned())
    }

    /// Returns the next record batch, with the wanted columns only.
    fn next_batch(&mut self, wanted: &[usize]) -> Result<Option<RecordBatch>, String> {
        while let Some(metadata) = self.next_message()? {
            let message = message(&metadata)?;
            let body = self.bytes(u64::try_from(message.bodyLength()).map_err(|_| "a message has a wrong length")?)?;
            let (version, schema) = (message.version(), Arc::clone(&self.schema));
            if let Some(batch) = message.header_as_record_batch() {
                check_buffers(batch, &body)?;
                let body = Buffer::from_vec(body);
                let read = read_record_batch(&body, batch, schema, &self.dictionaries, Some(wanted), &version);
                return read.map(Some).map_err(|error| error.to_string());
            }
            if let Some(batch) = message.header_as_dictionary_batch() {
                check_buffers(batch.data().ok_or("a dictionary has no values")?, &body)?;
                read_dictionary(&Buffer::from_vec(body), batch, &schema, &mut self.dictionaries, &version)
                    .map_err(|error| error.to_string())?;
            } else {
                return Err(format!("found a message of type {:?}, expected a record batch", message.header_type()));
            }
        }
        Ok(None)
    }

    /// Returns the metadata of the next message; `None` after the last one.
    fn next_message(&mut self) -> Result<Option<Vec<u8>>, String> {
        match &mut self.positions {
            Some(positions) => match positions.next() {
                Some(position) => self.go_to(position)?,
                None => return Ok(None),
            },
            None if self.left == 0 => return Ok(None),
            None => {}
        }
        let mut length = self.word()?;
        // Before Arrow 0.15, messages had no mark.
        if length == CONTINUATION {
            length = self.word()?;
        }
        match u32::from_le_bytes(length) {
            0 => Ok(None),
            length => self.bytes(length.into()).map(Some),
        }
    }

    fn go_to(&mut self, position: u64) -> Result<(), String> {
        self.left = self.length.checked_sub(position).ok_or("a message is outside of the file")?;
        self.file.seek(SeekFrom::Start(position)).map(drop).map_err(|error| error.to_string())
    }

    fn word(&mut self) -> Result<[u8; 4], String> {
        self.bytes(4)?.try_into().map_err(|_| "it is cut off".to_owned())
    }

    fn bytes(&mut self, length: u64) -> Result<Vec<u8>, String> {
        self.left = self.left.checked_sub(length).ok_or("it is cut off")?;
        let mut bytes = Vec::new();
        (&mut self.file).take(length).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() as u64 == length { Ok(bytes) } else { Err("it is cut off".to_owned()) }
    }
}

fn message(metadata: &[u8]) -> Result<Message<'_>, String> {
    root_as_message(metadata).map_err(|error| error.to_string())
}

/// Checks that the buffers of a batch are in its body, and that they are not too large after decompression.
fn check_buffers(batch: arrow_ipc::RecordBatch<'_>, body: &[u8]) -> Result<(), String> {
    let mut unpacked = 0u64;
    for buffer in batch.buffers().into_iter().flatten() {
        let range = usize::try_from(buffer.offset()).ok().zip(usize::try_from(buffer.length()).ok());
        let bytes = range.and_then(|(start, length)| body.get(start..start.checked_add(length)?));
        let bytes = bytes.ok_or("a buffer is outside of its message")?;
        // Compressed buffers begin with their length after decompression; -1 says that they are not compressed.
        if let (Some(_), Some((length, _))) = (batch.compression(), bytes.split_first_chunk::<8>()) {
            unpacked = unpacked.saturating_add(u64::try_from(i64::from_le_bytes(*length)).unwrap_or_default());
        }
    }
    if unpacked > MAX_BATCH_BYTES {
        let max = MAX_BATCH_BYTES >> 30;
        return Err(format!(
            "a record batch has more than {max} GiB; write the table in smaller batches, or as Parquet"
        ));
    }
    Ok(())
}
