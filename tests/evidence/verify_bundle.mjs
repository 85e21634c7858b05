// Verifies a Sigstore bundle with a public key: node verify_bundle.mjs HOME_OF_NODE_MODULES BUNDLE PEM KEYID
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createPublicKey } from "node:crypto";

const [home, bundle, pem, keyid] = process.argv.slice(2);
const require = createRequire(home + "/package.json");
const { bundleFromJSON } = require("@sigstore/bundle");
const { toSignedEntity, toTrustMaterial, Verifier } = require("@sigstore/verify");

const root = { mediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1", tlogs: [], certificateAuthorities: [], ctlogs: [], timestampAuthorities: [] };
const find = (hint) => {
  if (hint !== keyid) throw new Error(`no key ${hint}`);
  return { publicKey: createPublicKey(readFileSync(pem)), validFor: () => true };
};
const verifier = new Verifier(toTrustMaterial(root, find), { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0, tsaThreshold: 0 });
const entity = toSignedEntity(bundleFromJSON(JSON.parse(readFileSync(bundle, "utf8"))));
const signer = verifier.verify(entity);
process.stdout.write(signer.key ? "verified\n" : "no key\n");
