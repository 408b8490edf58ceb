// SPDX-License-Identifier: MIT OR Apache-2.0
//! One folder per command.

pub mod single;
pub mod sockbuf;
pub mod tcpaccept;
pub mod tcpcong;
pub mod tcpconnect;
pub mod tcpdrop;
pub mod tcpinfo;
pub mod tcplat;
pub mod tcplife;
pub mod tcpprobe;
pub mod tcprcvspace;
pub mod tcpreset;
pub mod tcpretrans;
pub mod tcpstates;
pub mod tcptools;
pub mod tcptop;
pub mod tplist;
