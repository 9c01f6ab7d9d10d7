// An identity provider on loopback: the package oidc-provider, with the device authorization grant and access tokens that are JSON Web Tokens.
//
// Usage: issuer.mjs PACKAGES PORT. What a person does in a browser is done by POST /yes?code=CODE&who=NAME and POST /no?code=CODE; POST /rotate gives it
// another key to sign by, beside the one before.

import { generateKeyPairSync, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const [packages, port] = process.argv.slice(2);
const { default: Provider } = await import(pathToFileURL(`${packages}/node_modules/oidc-provider/lib/index.js`));

const key = () => {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return { ...privateKey.export({ format: "jwk" }), kid: randomUUID(), use: "sig", alg: "ES256" };
};
const groups = (who) => (who === "alice" ? ["operators"] : ["guests"]);
const server = (resource) => ({ scope: "admin", audience: resource, accessTokenFormat: "jwt", accessTokenTTL: 600, jwt: { sign: { alg: "ES256" } } });

const make = (keys) =>
  new Provider(`http://127.0.0.1:${port}`, {
    jwks: { keys },
    clients: [
      {
        client_id: "valetkey",
        token_endpoint_auth_method: "none",
        grant_types: ["urn:ietf:params:oauth:grant-type:device_code"],
        redirect_uris: [],
        response_types: [],
        id_token_signed_response_alg: "ES256",
      },
    ],
    cookies: { keys: [randomUUID()] },
    features: {
      devInteractions: { enabled: false },
      deviceFlow: { enabled: true },
      resourceIndicators: { enabled: true, getResourceServerInfo: (_, resource) => server(resource), useGrantedResource: () => true },
    },
    findAccount: (_, who) => ({ accountId: who, claims: () => ({ sub: who }) }),
    extraTokenClaims: (_, token) => ({ groups: groups(token.accountId) }),
    ttl: { DeviceCode: 60, Grant: 600, IdToken: 600, AccessToken: 600 },
  });

let keys = [key()];
let provider = make(keys);

async function person(url) {
  const code = await provider.DeviceCode.findByUserCode(url.searchParams.get("code").replace("-", ""));
  if (url.pathname === "/no") {
    Object.assign(code, { error: "access_denied", errorDescription: "the person said no" });
  } else {
    const who = url.searchParams.get("who");
    const grant = new provider.Grant({ accountId: who, clientId: code.clientId });
    grant.addOIDCScope("openid");
    const { resource } = code.params;
    if (resource) grant.addResourceScope(resource, "admin");
    const grantId = await grant.save();
    const authTime = Math.floor(Date.now() / 1000);
    Object.assign(code, { accountId: who, grantId, authTime, resource, scope: code.params.scope, claims: {} });
  }
  await code.save();
}

createServer(async (request, response) => {
  const url = new URL(request.url, `http://127.0.0.1:${port}`);
  try {
    if (url.pathname === "/rotate") {
      keys = [key(), ...keys].slice(0, 2);
      provider = make(keys);
    } else if (url.pathname === "/yes" || url.pathname === "/no") {
      await person(url);
    } else {
      return provider.callback()(request, response);
    }
    response.end("done\n");
  } catch (error) {
    response.writeHead(500).end(`${error.stack}\n`);
  }
}).listen(port, "127.0.0.1");
