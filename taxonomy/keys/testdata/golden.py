# Made keys-v1.json and the values in golden_test.go, with nothing of Ebb in it:
# run it in this folder to make them again.
import hmac,hashlib,base64,struct,json
H=lambda k,m: hmac.new(k,m,hashlib.sha256).digest()
key=lambda c: bytes([c])*32
kid=lambda k: H(k,b"ebb key id")[:4].hex()
cookie,q4,demo,era,par=key(1),key(2),key(3),key(4),key(5)
ID=bytes(range(16))
day=20782 # 2026-11-25
import datetime
print((datetime.date(2026,11,25)-datetime.date(1970,1,1)).days)
print("kid",kid(cookie))
print("vk", H(q4,b"cookie\0"+ID)[:16].hex())
print("vk demo", H(demo,b"own:demo\0"+b"household-7")[:16].hex())
print("ev", H(q4,b"event\0cookie\0shop\0order-1")[:16].hex())
vk=H(q4,b"cookie\0"+ID)[:16]
print("erasure",H(era,vk)[:16].hex())
print("pseud",H(H(par,b"dsp-a"),struct.pack(">I",7)+vk)[:16].hex())
d=struct.pack(">H",20782)
m=H(cookie,b"1."+kid(cookie).encode()+b"."+ID+d+b"__Host-ebb")[:16]
print("cookie","1."+kid(cookie)+"."+base64.urlsafe_b64encode(ID+d+m).decode().rstrip("="))
b64=lambda k: base64.b64encode(k).decode()
f={"format":"ebb keys","version":1,"cookie":{"current":kid(cookie),"keys":{kid(cookie):b64(cookie)}},"store":{"2026-Q4":b64(q4)},"spaces":{"own:demo":b64(demo)},"erasure":b64(era),"partner":b64(par),"check":""}
f["check"]=hashlib.sha256(json.dumps(f,separators=(",",":")).encode()).hexdigest()
open("keys-v1.json","w").write(json.dumps(f,indent=2)+"\n")
