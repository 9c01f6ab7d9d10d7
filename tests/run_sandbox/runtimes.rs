//! What tools are made of runs under the baseline alone: Node and Python, with children, threads and a client of HTTP.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
};

use super::*;

/// Answers each request with `fine`, until the test ends.
fn web_server() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfine");
        }
    });
    port
}

/// Runs a program as each user, both ways; what it prints.
#[track_caller]
fn prints(program: &str, arguments: &[&str], wanted: &v1::Sandbox, expected: &str) {
    for (user, how) in [0, USER].into_iter().flat_map(|user| BOTH.map(|how| (user, how))) {
        let Outcome { code, out, errors } = launch(user, how, || {
            env::set_current_dir("/").unwrap();
            let sandbox = Sandbox::prepare(wanted).unwrap();
            sandbox.admits(Path::new(program)).unwrap();
            start(program, arguments, Some(&sandbox))
        });
        assert_eq!(String::from_utf8(out).unwrap(), expected, "as user {user}, {how:?}, {code}: {errors}");
        assert_eq!(errors, "");
    }
}

const PYTHON: &str = r#"
import asyncio, multiprocessing, ssl, subprocess, sys, threading, urllib.request, hashlib, json, sqlite3
context = multiprocessing.get_context("fork")
def work(pipe): pipe.send("forked")
if __name__ == "__main__":
    print(subprocess.run([sys.executable, "-c", "print('child')"], capture_output=True, text=True).stdout.strip())
    async def start():
        child = await asyncio.create_subprocess_exec("/bin/echo", "async", stdout=subprocess.PIPE)
        return (await child.communicate())[0].decode().strip()
    print(asyncio.run(start()))
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there,)); process.start(); print(here.recv()); process.join()
    thread = threading.Thread(target=lambda: print("thread")); thread.start(); thread.join()
    ssl.create_default_context()
    print(urllib.request.urlopen("http://127.0.0.1:" + sys.argv[1]).read().decode())
    try: urllib.request.urlopen("http://127.0.0.1:1")
    except Exception as denied: print(denied.reason.strerror)
"#;

#[test]
fn python_runs() {
    let port = web_server();
    let wanted = v1::Sandbox { connect: vec![port.into()], ..Default::default() };
    let expected = "child\nasync\nforked\nthread\nfine\nPermission denied\n";
    prints("/usr/bin/python3", &["-c", PYTHON, &port.to_string()], &wanted, expected);
}

const NODE: &str = r#"
const { execFileSync, spawn, fork } = require("node:child_process");
const { Worker } = require("node:worker_threads");
const http = require("node:http"), os = require("node:os"), dns = require("node:dns"), tls = require("node:tls");
(async () => {
  console.log(execFileSync(process.execPath, ["-p", "'child'"]).toString().trim());
  await new Promise(done => spawn("/bin/sh", ["-c", "cat"]).on("exit", done).stdin.end("text"));
  const worker = new Worker("require('node:worker_threads').parentPort.postMessage('thread')", { eval: true });
  console.log(await new Promise(done => worker.on("message", done)));
  if (!os.cpus().length || !os.totalmem() || !tls.rootCertificates.length) console.log("blind");
  os.networkInterfaces();
  const get = port => new Promise(done => http.get({ host: "127.0.0.1", port }, answer => answer.on("data", text => done(text.toString()))).on("error", error => done(error.code)));
  console.log(await get(process.argv[1]));
  console.log(await get(1));
  console.log(await new Promise(done => dns.lookup("localhost", error => done(error ? error.code : "found"))));
})();
"#;

#[test]
fn node_runs() {
    let port = web_server();
    let wanted = v1::Sandbox { connect: vec![port.into()], ..Default::default() };
    prints("/usr/bin/node", &["-e", NODE, &port.to_string()], &wanted, "child\nthread\nfine\nEACCES\nfound\n");
}

#[test]
fn both_start_without_any_network() {
    let nothing = v1::Sandbox::default();
    prints(
        "/usr/bin/python3",
        &["-c", "import asyncio, http.client; print(asyncio.run(asyncio.sleep(0, 'fine')))"],
        &nothing,
        "fine\n",
    );
    prints("/usr/bin/node", &["-e", "setTimeout(() => console.log('fine'), 1)"], &nothing, "fine\n");
}
