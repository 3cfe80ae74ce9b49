#include "coordinator/api/http_head.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "coordinator/api/http_auth.h"

namespace tandem::coordinator {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(HttpHead, OfKnownLength) {
  HttpHead head;
  head.fields = {{"Retry-After", "1"}};
  HttpFraming framing;
  framing.body_bytes = 5;
  const std::string bytes = HeadBytes(head, framing, "id-1");
  EXPECT_THAT(bytes, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(bytes, HasSubstr("Content-Length: 5\r\n"));
  EXPECT_THAT(bytes, HasSubstr("x-request-id: id-1\r\n"));
  EXPECT_THAT(bytes, HasSubstr("Retry-After: 1\r\n\r\n"));
  EXPECT_THAT(bytes, Not(HasSubstr("Connection:")));
  EXPECT_THAT(bytes, Not(HasSubstr("chunked")));
}

TEST(HttpHead, Streams) {
  HttpFraming framing;
  framing.length_known = false;
  framing.chunked = true;
  EXPECT_THAT(HeadBytes({}, framing, ""), HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_THAT(HeadBytes({}, framing, ""), Not(HasSubstr("Content-Length")));
  framing = {.chunked = false, .length_known = false, .keep_alive = false, .http_1_0 = true};
  EXPECT_THAT(HeadBytes({}, framing, ""), HasSubstr("Connection: close\r\n"));
  EXPECT_THAT(HeadBytes({}, framing, ""), Not(HasSubstr("chunked")));
}

TEST(HttpHead, NobodySmugglesAField) {
  HttpHead head;
  head.fields = {{"Origin\r\nX: 1", "a\r\nSet-Cookie: b\n\r\n"}};
  const std::string bytes = HeadBytes(head, {}, "");
  EXPECT_THAT(bytes, Not(HasSubstr("\r\nSet-Cookie")));
  EXPECT_THAT(bytes, Not(HasSubstr("\r\nX: 1")));
  EXPECT_EQ(bytes.find("\r\n\r\n"), bytes.size() - 4);
}

TEST(HttpHead, Chunks) {
  EXPECT_EQ(ChunkBytes("hello world, hello"), "12\r\nhello world, hello\r\n");
  EXPECT_EQ(ChunkBytes(""), "");
}

TEST(HttpHead, RequestIds) {
  EXPECT_EQ(FitRequestId("a-Z_0.9:x"), "a-Z_0.9:x");
  EXPECT_EQ(FitRequestId("a b"), "");
  EXPECT_EQ(FitRequestId("a\nb"), "");
  EXPECT_EQ(FitRequestId(std::string(129, 'a')), "");
}

TEST(ApiKeys, NoneAreAskedForByDefault) {
  EXPECT_FALSE(ApiKeys().required());
  EXPECT_TRUE(ApiKeys().Allows(""));
}

TEST(ApiKeys, OneOfSeveral) {
  const std::string path = testing::TempDir() + "/tandem_api_keys";
  std::ofstream(path) << "# ours\n\n  second \nthird\n";
  const auto keys = ApiKeys::Load("first", path);
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_TRUE(keys->required());
  for (const char* good : {"Bearer first", "bearer second", "BEARER  third"})
    EXPECT_TRUE(keys->Allows(good)) << good;
  for (const char* bad : {"", "first", "Bearer", "Bearer ", "Bearer firs", "Bearer first2",
                          "Basic first", "Bearer # ours"})
    EXPECT_FALSE(keys->Allows(bad)) << bad;
}

TEST(ApiKeys, FilesWithoutAKey) {
  const std::string path = testing::TempDir() + "/tandem_no_api_keys";
  std::ofstream(path) << "# nothing\n";
  EXPECT_FALSE(ApiKeys::Load("", path).ok());
  EXPECT_FALSE(ApiKeys::Load("", path + ".absent").ok());
}

}  // namespace
}  // namespace tandem::coordinator
